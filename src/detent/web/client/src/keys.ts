/** The keyboard: rows by j and k, pages by g and a letter, search by a slash, help by a question mark. */

import { all, make, one, typing } from "./dom";
import { nextTheme } from "./theme";

let afterG = 0;

export function startKeys(): void {
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape" && typing(event.target)) {
      (event.target as HTMLElement).blur();
      return;
    }
    if (typing(event.target) || one("dialog[open]")) return;
    if (act(event)) event.preventDefault();
  });
  document.addEventListener("click", (event) => {
    if ((event.target as Element).closest("[data-keys-help]")) help();
  });
}

function act(event: KeyboardEvent): boolean {
  const key = event.key;
  if (afterG && Date.now() - afterG < 1200) {
    afterG = 0;
    const place = one<HTMLAnchorElement>(`[data-go="${CSS.escape(key)}"]`);
    if (place) location.assign(place.href);
    return place !== null;
  }
  switch (key) {
    case "g":
      afterG = Date.now();
      return true;
    case "j":
      return step(1);
    case "k":
      return step(-1);
    case "o": {
      const link = current();
      if (link) link.click();
      return link !== null;
    }
    case "u": {
      const up = one<HTMLAnchorElement>("[data-up]");
      if (up) location.assign(up.href);
      return up !== null;
    }
    case "/": {
      const search = one<HTMLInputElement>("[data-search]:not(:disabled)");
      search?.focus();
      search?.select();
      return search !== null;
    }
    case "?":
      help();
      return true;
    case "t":
      nextTheme();
      return true;
    default: {
      const button = one(`[data-key="${CSS.escape(key)}"]`);
      button?.click();
      return button !== null;
    }
  }
}

function links(): HTMLElement[] {
  return all("[data-row]")
    .map((row) => (row.matches("[data-open]") ? row : one("[data-open]", row)))
    .filter((link): link is HTMLElement => link !== null && link.offsetParent !== null);
}

function current(): HTMLElement | null {
  const row = document.activeElement?.closest("[data-row]");
  if (!row) return null;
  return row.matches("[data-open]") ? (row as HTMLElement) : one("[data-open]", row);
}

/** The focus moves with the row, so that what is chosen is seen, said, and opened by Enter as well. */
function step(by: number): boolean {
  const every = links();
  if (!every.length) return false;
  const at = every.indexOf(current() as HTMLElement);
  const next = every[at < 0 ? (by > 0 ? 0 : every.length - 1) : Math.min(Math.max(at + by, 0), every.length - 1)];
  next?.focus();
  next?.scrollIntoView({ block: "nearest" });
  return true;
}

function help(): void {
  let dialog = one<HTMLDialogElement>(".keys-help");
  if (!dialog) {
    dialog = make("dialog", { class: "keys-help", "aria-labelledby": "keys-title" }) as HTMLDialogElement;
    const list = make("dl");
    const rows: [string[], string][] = [
      [["j", "k"], "Next and previous row"],
      [["o"], "Open the row"],
      [["u"], "Up to the list"],
      [["/"], "Search"],
      [["Ctrl K"], "Go to anything"],
      [["n"], "New, where something can be made"],
      [["e"], "Edit, where something can be changed"],
      [["f"], "Follow traces live"],
      [["t"], "Light, dark, or as the system"],
      ...all("[data-go]").map((place): [string[], string] => [["g", place.dataset["go"] ?? ""], place.dataset["place"] ?? ""]),
    ];
    for (const [keys, told] of rows) {
      const term = make("dt");
      keys.forEach((key, at) => term.append(...(at ? [" "] : []), make("kbd", {}, key)));
      list.append(term, make("dd", {}, told));
    }
    const close = make("button", { class: "button", autofocus: "" }, "Close");
    const form = make("form", { method: "dialog" }, close);
    dialog.append(make("h2", { id: "keys-title" }, "Keyboard"), list, form);
    document.body.append(dialog);
  }
  if (!dialog.open) dialog.showModal();
}
