// Keeps an open page up to date, and shows times in the reader's zone. Without it the page works, and stays as it was loaded.
"use strict";

const RETRY_MS = 3000; // after a lost connection
const SILENT_MS = 12000; // without an event, the server is lost: it sends one every 5 s
const POLL_MS = 15000; // where the server has no stream of events to spare
const GAP_MS = 1000; // between two readings of the page

// --- Times -----------------------------------------------------------------------------------------------------------

const whole = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const exact = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });
const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });

function localize(root) {
  for (const each of root.querySelectorAll("time[data-time]")) {
    const at = new Date(each.dateTime);
    if (!Number.isNaN(at.getTime())) {
      each.textContent = whole.format(at);
      each.title = exact.format(at);
    }
  }
}

// --- Bringing one tree to the content of another ------------------------------------------------------------------------

// Elements that stay are changed in place, so that the focus, the selection, scrolling and what is unfolded stay too.
function morph(from, to) {
  if (from.isEqualNode(to)) return;
  if (from.nodeType !== to.nodeType || from.nodeName !== to.nodeName || keyOf(from) !== keyOf(to)) {
    from.replaceWith(document.importNode(to, true));
    return;
  }
  if (from.nodeType !== Node.ELEMENT_NODE) {
    from.nodeValue = to.nodeValue;
    return;
  }
  if (from.matches("input, select, textarea, #liveness, #lost")) return; // they are the reader's, or ours
  morphAttributes(from, to);
  morphChildren(from, to);
}

function keyOf(node) {
  return node.nodeType === Node.ELEMENT_NODE ? node.dataset.key || node.id || "" : "";
}

function morphAttributes(from, to) {
  for (const { name, value } of to.attributes) {
    if (from.getAttribute(name) !== value && name !== "open") from.setAttribute(name, value);
  }
  for (const { name } of [...from.attributes]) {
    if (!to.hasAttribute(name) && name !== "open") from.removeAttribute(name);
  }
}

function morphChildren(from, to) {
  const keyed = new Map();
  for (const child of from.children) if (keyOf(child)) keyed.set(keyOf(child), child);
  let at = from.firstChild;
  for (const wanted of [...to.childNodes]) {
    const kept = keyed.get(keyOf(wanted));
    if (kept && kept !== at && kept.parentNode === from && kept.nodeName === wanted.nodeName) {
      from.insertBefore(kept, at);
      at = kept;
    }
    if (!at || (keyOf(at) && keyOf(at) !== keyOf(wanted))) {
      from.insertBefore(document.importNode(wanted, true), at);
      continue;
    }
    const next = at.nextSibling;
    morph(at, wanted);
    at = next;
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

// --- Staying up to date ----------------------------------------------------------------------------------------------

const address = document.body.dataset.live;
const lost = document.getElementById("lost");
const liveness = document.getElementById("liveness");
let source = null;
let watch = 0;
let retry = 0;
let reading = false;
let again = false;
let readAt = Date.now();
let last = document.body.dataset.stamp; // of what is shown

function say(state, text) {
  if (liveness.dataset.is !== state) {
    liveness.dataset.is = state;
    liveness.textContent = text;
  }
}

function noteLost(why) {
  if (!lost.hidden) return;
  lost.textContent = `${why} What you see is from ${clock.format(new Date(readAt))}. Trying again…`;
  lost.hidden = false;
  say("lost", "not connected");
}

function noteFound() {
  if (!lost.hidden) {
    lost.hidden = true;
    lost.textContent = "";
  }
  say("live", "live");
}

async function read() {
  if (reading) {
    again = true;
    return;
  }
  reading = true;
  try {
    const answer = await fetch(location.href, { headers: { "x-part": "1" }, credentials: "same-origin", redirect: "manual" });
    if (answer.status === 401 || answer.type === "opaqueredirect") {
      location.reload();
      return;
    }
    if (answer.status >= 500) {
      noteLost("The server can’t answer now.");
      return;
    }
    const text = await answer.text();
    const fresh = new DOMParser().parseFromString(text, "text/html");
    localize(fresh);
    const focused = document.activeElement;
    for (const where of ["main", "#live", "footer > span:nth-of-type(2)"]) {
      const [from, to] = [document.querySelector(where), fresh.querySelector(where)];
      if (from && to) morph(from, to);
    }
    // An element that moved within its list has lost the focus.
    if (focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
    last = fresh.body.dataset.stamp;
    readAt = Date.now();
    noteFound();
  } catch {
    noteLost("The connection to the server is lost.");
  } finally {
    setTimeout(() => {
      reading = false;
      if (again) {
        again = false;
        read();
      }
    }, GAP_MS);
  }
}

function heard() {
  clearTimeout(watch);
  watch = setTimeout(() => reconnect("The server has gone silent."), SILENT_MS);
}

function connect() {
  source = new EventSource(address);
  heard();
  source.addEventListener("stamp", (event) => {
    heard();
    if (JSON.parse(event.data) !== last || !lost.hidden) read();
    else noteFound();
  });
  source.addEventListener("beat", () => {
    heard();
    if (!lost.hidden) read();
  });
  source.addEventListener("end", () => reconnect(""));
  source.addEventListener("full", () => poll());
  source.addEventListener("error", () => {
    if (source && source.readyState === EventSource.CLOSED) refused();
    else reconnect("The connection to the server is lost.");
  });
}

// The stream was refused: by a server that asks for a sign-in, or that has no stream to spare.
async function refused() {
  disconnect();
  try {
    const answer = await fetch(address, { method: "HEAD", credentials: "same-origin" });
    if (answer.status === 401) location.reload();
    else poll();
  } catch {
    reconnect("The connection to the server is lost.");
  }
}

function poll() {
  disconnect();
  read();
  retry = setTimeout(connect, POLL_MS);
}

function disconnect() {
  clearTimeout(watch);
  clearTimeout(retry);
  if (source) source.close();
  source = null;
}

function reconnect(why) {
  disconnect();
  if (why) noteLost(why);
  retry = setTimeout(connect, RETRY_MS);
}

localize(document);
if (address) {
  const start = () => (document.hidden ? disconnect() : source || connect());
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && Date.now() - readAt > GAP_MS) read();
    start(); // a page that nobody looks at costs nothing, and leaves its connection to others
  });
  addEventListener("pagehide", disconnect);
  addEventListener("pageshow", start);
}

// A form that is sent twice is one change; the button says that it was sent.
for (const form of document.querySelectorAll("form.confirm")) {
  form.addEventListener("submit", () => {
    const button = form.querySelector("button");
    setTimeout(() => { button.disabled = true; }, 0);
  });
}
