/** What every page has: partial updates, keys, the palette, copying, the theme. */

import htmx from "htmx.org";
import { startCopying } from "./copy";
import { one, say } from "./dom";
import { startKeys } from "./keys";
import { startPalette } from "./palette";
import { startTheme } from "./theme";

declare global {
  interface Window {
    htmx: typeof htmx;
  }
}

startTheme();
startCopying();
startKeys();
startPalette();

interface Context {
  request: { method: string; headers: Record<string, string> };
  sourceElement?: Element;
}

function context(event: Event): Context | undefined {
  return (event as CustomEvent<{ ctx?: Context }>).detail?.ctx;
}

document.addEventListener("htmx:config:request", (event) => {
  const request = context(event)?.request;
  const token = one<HTMLMetaElement>("meta[name=csrf]")?.content;
  if (request && token && request.method.toUpperCase() !== "GET") request.headers["X-CSRF-Token"] = token;
});

// A page that polls must not pile up work while nobody looks, nor pull what somebody is reading from under them.
document.addEventListener("htmx:before:request", (event) => {
  const source = context(event)?.sourceElement;
  const polls = source?.getAttribute("hx-trigger")?.startsWith("every");
  if (polls && (document.hidden || one(":popover-open, dialog[open]") || source?.matches(".reading"))) event.preventDefault();
});

// What a live list gained is said and marked, not only shown.
let known = new Set<string>();
const rows = (): string[] => [...document.querySelectorAll("[data-live] tr[id]")].map((row) => row.id);
document.addEventListener("htmx:before:swap", () => {
  known = new Set(rows());
});
document.addEventListener("htmx:after:swap", () => {
  const fresh = known.size || one("[data-live]") ? rows().filter((id) => !known.has(id)) : [];
  if (fresh.length && one("[data-live]")) {
    say(fresh.length === 1 ? "1 new trace" : `${fresh.length} new traces`);
    for (const id of fresh) document.getElementById(id)?.classList.add("fresh");
  }
});

// A form that is sent in parts comes back with its rows in another order: what was typed into the old places is not
// theirs any more, and the focus goes on from where the server says.
document.addEventListener("htmx:after:swap", () => {
  const editor = one<HTMLFormElement>("form#editor");
  editor?.reset();
  if (editor) one("[autofocus]", editor)?.focus();
});

document.addEventListener("submit", (event) => {
  const form = event.target as HTMLFormElement;
  const button = one<HTMLButtonElement>("button:not([type=button])", form);
  if (button && form.dataset["busy"]) {
    button.textContent = form.dataset["busy"];
    setTimeout(() => (button.disabled = true));
  }
});

document.addEventListener("click", (event) => {
  if ((event.target as Element).closest("[data-back]")) history.back();
});

one("[data-focus]")?.focus();
if (location.hash.length > 1) document.getElementById(decodeURIComponent(location.hash.slice(1)))?.classList.add("chosen");
