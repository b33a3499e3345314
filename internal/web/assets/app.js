// Keeps an open page up to date with what the server sends (live.go), and the reader where they are.
"use strict";

const $ = (id) => document.getElementById(id);
const live = document.body.dataset.live;
const skew = Date.now() - Number(document.body.dataset.now); // of this clock against the server's
const log = $("log");
const follow = $("follow");
let source, ended = false;

// Times. The rules are those of took and ago in pages.go.
function took(ms) {
  const s = Math.max(0, Math.floor(ms / 1000)), two = (n) => String(n).padStart(2, "0");
  if (ms < 10000) return (Math.max(0, Math.floor(ms / 100)) / 10).toFixed(1) + " s";
  if (s < 60) return s + " s";
  if (s < 3600) return Math.floor(s / 60) + " min " + two(s % 60) + " s";
  return Math.floor(s / 3600) + " h " + two(Math.floor(s / 60) % 60) + " min";
}
function ago(ms) {
  for (const [of, name] of [[864e5, "day"], [36e5, "hour"], [6e4, "minute"]]) {
    const n = Math.floor(ms / of);
    if (n >= 1) return n + " " + name + (n > 1 ? "s" : "") + " ago";
  }
  return "just now";
}
setInterval(() => {
  const now = Date.now() - skew;
  for (const e of document.querySelectorAll("[data-since]")) e.textContent = took(now - e.dataset.since);
  for (const e of document.querySelectorAll("[data-ago]")) e.textContent = ago(now - e.dataset.ago);
}, 1000);

// The server's HTML is made by the templates that made the page; text of strangers is escaped in it.
function parse(html) {
  const t = document.createElement("template");
  t.innerHTML = html;
  return t.content;
}

// What differs by its times alone stays as it is, so that nothing is exchanged under a finger on a button.
const plain = (html) => html.replace(/(data-(?:since|ago)="\d+">)[^<]*/g, "$1");
const before = {};
function showPage(html) {
  for (const part of [...parse(html).children]) {
    const old = $(part.id);
    if (!old || before[part.id] === plain(part.outerHTML)) continue;
    before[part.id] = plain(part.outerHTML);
    const focus = old.contains(document.activeElement) && document.activeElement;
    const open = new Map([...old.querySelectorAll("details")].map((d) => [d.id, d.open])), top = old.scrollTop;
    const left = old.firstElementChild?.scrollLeft;
    old.replaceWith(part);
    part.querySelectorAll("details").forEach((d) => { if (open.has(d.id)) d.open = open.get(d.id); });
    part.scrollTop = top;
    if (left) part.firstElementChild.scrollLeft = left;
    if (focus) {
      const same = focus.getAttribute("href");
      (same ? part.querySelector(`[href="${CSS.escape(same)}"]`) : part.querySelector("button"))?.focus({ preventScroll: true });
    }
    if (log) fill();
    if (part.dataset.title) document.title = part.dataset.title + " · Slipway";
    if (part.dataset.say && $("said").textContent !== part.dataset.say) $("said").textContent = part.dataset.say;
  }
}

// The log. While its end is in sight it stays there; who scrolls up is left alone.
let atEnd = true;
const number = (line) => Number(line.id.slice(1));
function showLog(html) {
  watchScroll(); // its event may still be on the way
  const lines = [...parse(html).children], fresh = [];
  for (const line of lines) {
    const old = $(line.id);
    if (old) old.replaceWith(line);
    else fresh.push(line);
  }
  if (fresh.length && log.lastElementChild && number(fresh[0]) > number(log.lastElementChild) + 1) log.replaceChildren();
  log.append(...fresh);
  // Cut at the top, but not under the eyes of who reads there.
  const max = Number(log.dataset.max) * (atEnd ? 1 : 5);
  while (log.childElementCount > max) log.firstElementChild.remove();
  if (log.firstElementChild && number(log.firstElementChild) > 1) $("earlier").hidden = false;
  if (atEnd) toEnd();
}
// The log takes what is left of the window, so that its end is in sight.
function fill() {
  watchScroll();
  const top = log.getBoundingClientRect().top + scrollY;
  log.style.maxHeight = innerWidth < 900 ? "" : Math.max(320, innerHeight - top - 24) + "px";
  if (atEnd) toEnd();
}
function toEnd() {
  log.scrollTop = log.scrollHeight;
}
function watchScroll() {
  const now = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  if (now === atEnd) return;
  atEnd = now;
  follow.hidden = atEnd || ended || !live || !log.dataset.follows;
  // Who reads an earlier part keeps this step, also when the run goes on to the next.
  if (!atEnd && auto) pin();
}

// The page without a step in its address goes where the run goes.
let auto = live?.endsWith("?auto=1");
function pin() {
  auto = false;
  history.replaceState(null, "", $("log-head").dataset.link);
  connect();
}

function connect() {
  source?.close();
  let url = live.split("?")[0] + "?auto=" + (auto ? 1 : "");
  if (log) {
    url += "&at=" + log.dataset.at;
    if (log.dataset.follows) url += "&after=" + (log.lastElementChild ? number(log.lastElementChild) - 1 : 0);
  }
  source = new EventSource(url);
  source.addEventListener("page", (e) => {
    // A run that just got its jobs has a log to show, for which the page has no place yet.
    if (!log && parse(e.data).getElementById("log-head")) location.reload();
    showPage(e.data);
  });
  source.addEventListener("log", (e) => log && showLog(e.data));
  source.addEventListener("reset", (e) => {
    if (!log) return;
    log.dataset.at = e.data;
    log.dataset.follows = 1;
    follow.hidden = true;
    atEnd = true;
    log.replaceChildren();
    $("earlier").hidden = true;
    $("earlier").querySelector("a").href = location.pathname + "/" + e.data.replace(".", "/") + "?line=1";
  });
  source.addEventListener("end", () => {
    ended = true;
    follow.hidden = true;
    source.close();
  });
}

if (live) {
  connect();
  // A page that nobody sees lets go of its connection: a browser has only six of them.
  document.addEventListener("visibilitychange", () => {
    if (ended) return;
    if (document.hidden) source.close();
    else connect();
  });
  addEventListener("pageshow", (e) => { if (e.persisted && !ended) connect(); });
}
if (log) {
  const line = /^#L(\d+)$/.exec(location.hash);
  if (line && !$("L" + line[1]) && log.childElementCount && !location.search) location.replace("?line=" + line[1] + location.hash);
  else if (line || location.search) atEnd = false;
  if (atEnd) toEnd();
  fill();
  addEventListener("resize", fill);
  if (!line && /\/\d+\/\d+$/.test(location.pathname) && innerWidth < 700) $("log-head").scrollIntoView();
  log.addEventListener("scroll", watchScroll, { passive: true });
  follow.addEventListener("click", () => { atEnd = true; follow.hidden = true; toEnd(); });
}
if ($("repo")) {
  $("repo").form.querySelector("button").hidden = true;
  $("repo").addEventListener("change", (e) => e.target.form.submit());
}
