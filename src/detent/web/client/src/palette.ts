/** The command palette: every place, what can be done here, and whatever the server finds by the typed name. */

import { all, make, one } from "./dom";
import { nextTheme } from "./theme";

interface Entry {
  label: string;
  kind: string;
  run: () => void;
}

let dialog: HTMLDialogElement | null = null;
let input: HTMLInputElement;
let list: HTMLElement;
let entries: Entry[] = [];
let chosen = 0;
let asked = 0;

export function startPalette(): void {
  document.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") {
      event.preventDefault();
      open();
    }
  });
  document.addEventListener("click", (event) => {
    if ((event.target as Element).closest("[data-palette]")) open();
  });
  if (/Mac|iPhone|iPad/.test(navigator.platform)) for (const key of all("[data-mod]")) key.textContent = "⌘ K";
}

function open(): void {
  if (!one("[data-go]")) return;
  for (const shown of all<HTMLElement>(":popover-open")) shown.hidePopover();
  dialog ??= build();
  if (dialog.open) {
    dialog.close();
    return;
  }
  input.value = "";
  dialog.showModal();
  show(here(""));
}

function build(): HTMLDialogElement {
  input = make("input", {
    type: "text",
    role: "combobox",
    "aria-label": "Go to",
    "aria-controls": "palette-list",
    "aria-expanded": "true",
    "aria-autocomplete": "list",
    placeholder: "A page, key, route, trace id, or words to search for",
    autocomplete: "off",
    spellcheck: "false",
    maxlength: "200",
  }) as HTMLInputElement;
  list = make("ul", { id: "palette-list", role: "listbox", "aria-label": "Results" });
  const made = make("dialog", { class: "palette", "aria-label": "Go to anything" }, input, list) as HTMLDialogElement;
  input.addEventListener("input", () => void search(input.value.trim()));
  input.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      event.preventDefault();
      choose((chosen + step + entries.length) % Math.max(entries.length, 1));
    } else if (event.key === "Enter") {
      event.preventDefault();
      run(chosen);
    }
  });
  made.addEventListener("click", (event) => {
    if (event.target === made) made.close();
    const item = (event.target as Element).closest<HTMLElement>("[role=option]");
    if (item) run(Number(item.dataset["at"]));
  });
  document.body.append(made);
  return made;
}

/** What this page knows by itself. */
function here(text: string): Entry[] {
  const places = all<HTMLAnchorElement>("[data-go]").map((place) => ({
    label: place.dataset["place"] ?? "",
    kind: `g ${place.dataset["go"] ?? ""}`,
    run: () => location.assign(place.href),
  }));
  const actions = all("[data-key]").map((button) => ({
    label: (button.textContent ?? "").trim(),
    kind: button.dataset["key"] ?? "",
    run: () => button.click(),
  }));
  const own = [{ label: "Change the theme", kind: "t", run: nextTheme }];
  const sought = text.toLowerCase();
  return [...places, ...actions, ...own].filter((entry) => fits(entry.label.toLowerCase(), sought));
}

/** Every letter in order, so that "prv" finds Providers. */
function fits(label: string, sought: string): boolean {
  let at = 0;
  for (const letter of sought) {
    at = label.indexOf(letter, at) + 1;
    if (!at) return false;
  }
  return true;
}

async function search(text: string): Promise<void> {
  const turn = ++asked;
  show(here(text));
  if (!text) return;
  try {
    const answer = await fetch(`/palette.json?q=${encodeURIComponent(text)}`, { headers: { accept: "application/json" } });
    if (!answer.ok || turn !== asked) return;
    const found = (await answer.json()) as { label: string; kind: string; href: string }[];
    if (turn !== asked) return;
    show([...here(text), ...found.map((hit) => ({ label: hit.label, kind: hit.kind, run: () => location.assign(hit.href) }))]);
  } catch {
    // Offline: what the page knows stays.
  }
}

function show(next: Entry[]): void {
  entries = next;
  list.replaceChildren(
    ...entries.map((entry, at) =>
      make(
        "li",
        { role: "option", id: `palette-${at}`, "data-at": String(at) },
        make("span", {}, entry.label),
        make("span", { class: "faint" }, entry.kind),
      ),
    ),
  );
  if (!entries.length) list.append(make("li", { class: "none" }, "Nothing by that name"));
  choose(0);
}

function choose(at: number): void {
  chosen = at;
  all("[role=option]", list).forEach((item, index) => {
    item.setAttribute("aria-selected", String(index === at));
    if (index === at) item.scrollIntoView({ block: "nearest" });
  });
  input.setAttribute("aria-activedescendant", entries.length ? `palette-${at}` : "");
}

function run(at: number): void {
  const entry = entries[at];
  dialog?.close();
  entry?.run();
}
