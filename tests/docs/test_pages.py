"""Every command of the documentation runs as its page has it, or is listed here with the reason why not."""

from pathlib import Path

import pytest
from support.page_shell import PageShell
from support.pages import blocks

RUN_HERE = ["docs/tutorial.md"]


@pytest.mark.parametrize("page", RUN_HERE)
def test_the_commands_of_a_page_run_as_they_stand(page: str, tmp_path: Path) -> None:
    with PageShell(tmp_path) as shell:
        shell.run(blocks(page))
