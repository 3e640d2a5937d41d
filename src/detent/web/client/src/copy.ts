/** Copy buttons: a command beside them, a value of their own, or the turn they stand in. */

import { all, one, say } from "./dom";

export function startCopying(): void {
  document.addEventListener("click", (event) => {
    const button = (event.target as Element).closest<HTMLElement>("[data-copy], [data-copy-turn]");
    if (!button) return;
    void copy(textOf(button)).then((done) => {
      const label = one("span", button);
      const before = label?.textContent ?? "";
      if (label) label.textContent = done ? "Copied" : "Select and copy";
      say(done ? "Copied" : "Copying is not allowed here; select the text");
      setTimeout(() => {
        if (label) label.textContent = before;
      }, 1600);
    });
  });
}

function textOf(button: HTMLElement): string {
  if (button.dataset["copy"]) return button.dataset["copy"];
  const turn = button.closest(".turn");
  if (turn) return all("[data-said]", turn).map((part) => part.textContent ?? "").join("\n\n");
  return one("pre", button.parentElement ?? document)?.textContent ?? "";
}

async function copy(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}
