"""Sign-ins of the page: they end with time, and can't fill memory."""

from xds.page.sessions import SESSION_S, SESSIONS_MAX, SESSIONS_OF_CALLER_MAX, Sessions


class Clock:
    now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def test_a_sign_in_stands_for_what_was_shown_until_it_is_closed() -> None:
    sessions = Sessions(Clock())
    made = sessions.open("Bearer a", "token:a")
    assert sessions.authorization(made) == "Bearer a"
    assert [sessions.authorization(other) for other in ("", "x", made[:-1], made + "\udc80")] == [""] * 4
    sessions.close(made)
    assert sessions.authorization(made) == ""


def test_a_sign_in_ends_after_its_time() -> None:
    clock = Clock()
    sessions = Sessions(clock)
    made = sessions.open("Bearer a", "token:a")
    clock.now_s += SESSION_S - 1
    assert sessions.authorization(made) == "Bearer a"
    clock.now_s += 1
    assert sessions.authorization(made) == ""


def test_ids_are_not_guessable_and_differ() -> None:
    sessions = Sessions(Clock())
    made = {sessions.open("Bearer a", f"token:{number}") for number in range(100)}
    assert len(made) == 100
    assert min(map(len, made)) >= 43  # 256 bits


def test_a_caller_ends_its_own_oldest_sign_in_and_nobody_elses() -> None:
    sessions = Sessions(Clock())
    others = sessions.open("Bearer b", "token:b")
    made = [sessions.open(f"Bearer {number}", "token:a") for number in range(SESSIONS_OF_CALLER_MAX + 3)]
    kept = [sessions.authorization(each) != "" for each in made]
    assert kept == [False] * 3 + [True] * SESSIONS_OF_CALLER_MAX
    assert sessions.authorization(others) == "Bearer b"


def test_many_callers_end_the_oldest_sign_in() -> None:
    sessions = Sessions(Clock())
    made = [sessions.open(f"Bearer {number}", f"token:{number}") for number in range(SESSIONS_MAX + 2)]
    assert [sessions.authorization(each) != "" for each in made] == [False] * 2 + [True] * SESSIONS_MAX
