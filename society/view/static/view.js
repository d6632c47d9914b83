"use strict";
// Keys and live refresh. Every page works without this file.

const typing = (target) => target.closest("input, select, textarea, [contenteditable]") !== null;

const move = (by) => {
  const items = [...document.querySelectorAll("[data-item]")];
  if (items.length === 0) return;
  const here = items.indexOf(document.activeElement.closest("[data-item]"));
  const to = here < 0 ? (by > 0 ? 0 : items.length - 1)
    : Math.min(items.length - 1, Math.max(0, here + by));
  items[to].focus({ preventScroll: true });
  items[to].scrollIntoView({ block: "nearest" });
};

const follow = (kind) => {
  const link = document.querySelector(`main a[rel="${kind}"]`);
  if (link) link.click();
};

const help = () => {
  const dialog = document.getElementById("help");
  if (dialog.open) dialog.close();
  else dialog.showModal();
};

const changes = () => {
  const all = [...document.querySelectorAll("details.changes")];
  const open = !all.every((one) => one.open);
  for (const one of all) one.open = open;
};

// Formulas are shown, and their sources with the class "raw".
const raw = (on) => {
  document.documentElement.classList.toggle("raw", on);
  try {
    sessionStorage.setItem("raw", on ? "1" : "");
  } catch {
    // A browser may forbid storage: the next page begins with formulas again.
  }
  for (const link of document.querySelectorAll("[data-raw]"))
    link.textContent = on ? "Show formulas" : "Show the text as it was written";
};
const isRaw = () => document.documentElement.classList.contains("raw");
try {
  if (isRaw() || sessionStorage.getItem("raw")) raw(true);
} catch {
  // As above.
}

const keys = {
  j: () => move(1),
  k: () => move(-1),
  ArrowRight: () => follow("next"),
  ArrowLeft: () => follow("prev"),
  u: () => follow("up"),
  d: changes,
  m: () => raw(!isRaw()),
  "?": help,
  "/": () => {
    const search = document.querySelector('input[type="search"]');
    if (search) search.select();
    else follow("up");
  },
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return;
  if (typing(event.target)) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (document.getElementById("help").open && event.key !== "?") return;
  const act = keys[event.key];
  if (act) {
    event.preventDefault();
    act();
  }
});

document.addEventListener("click", (event) => {
  if (event.target.closest("[data-help]")) {
    event.preventDefault();
    help();
  }
  if (event.target.closest("[data-raw]")) {
    event.preventDefault();
    raw(!isRaw());
  }
});

// The button copies the link in front of it. Browsers allow that at safe addresses only.
if (navigator.clipboard)
  for (const button of document.querySelectorAll("[data-copy]")) {
    const said = button.textContent;
    button.hidden = false;
    button.setAttribute("aria-live", "polite");
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(button.previousElementSibling.href);
      button.textContent = button.dataset.copy;
      setTimeout(() => { button.textContent = said; }, 2000);
    });
  }

// On a wide screen there is room for more than the first lines.
const open = (root) => {
  if (!matchMedia("(min-width: 821px)").matches) return;
  for (const one of root.querySelectorAll("details[data-wide]")) one.open = true;
};
open(document);

// What a fragment names is often folded away.
const unfold = () => {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target && target.matches("[data-item], :has([data-item])")) {
    (target.matches("[data-item]") ? target : target.querySelector("[data-item]")).focus();
  }
};
addEventListener("hashchange", unfold);
unfold();

const refresh = async () => {
  const main = document.getElementById("main");
  if (!main.dataset.watch || document.hidden || document.getElementById("help").open) return;
  const said = await fetch(main.dataset.watch, { cache: "no-store" });
  if (!said.ok || (await said.text()) === main.dataset.state) return;
  const answer = await fetch(location.href, { cache: "no-store" });
  if (!answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const fresh = page.getElementById("main");
  if (!fresh) return;
  const open = [...main.querySelectorAll("details")].map((one) => one.open);
  const items = [...main.querySelectorAll("[data-item]")];
  const focus = items.indexOf(document.activeElement);
  main.replaceChildren(...fresh.childNodes);
  Object.assign(main.dataset, fresh.dataset);
  [...main.querySelectorAll("details")].forEach((one, i) => { one.open = open[i] ?? one.open; });
  if (focus >= 0) [...main.querySelectorAll("[data-item]")][focus]?.focus({ preventScroll: true });
};

const watch = async () => {
  try {
    await refresh();
  } catch {
    // The server is gone, or busy: try again.
  }
  setTimeout(watch, Number(document.getElementById("main").dataset.every) || 3000);
};
setTimeout(watch, 1500);
