/** The waterfall's keyboard: arrows walk the spans, left and right fold and unfold what is below one. */

import { all, one, say } from "./dom";

const folded = new Set<string>();

function items(): HTMLElement[] {
  return all("[data-waterfall] li");
}

function depth(item: HTMLElement): number {
  return Number(item.dataset["depth"]);
}

/** Hide what stands below a folded span, to any depth. */
function layOut(): void {
  let under = Infinity;
  for (const item of items()) {
    if (depth(item) <= under) under = Infinity;
    item.hidden = under !== Infinity;
    const shut = folded.has(item.dataset["span"] ?? "") && Number(item.dataset["children"]) > 0;
    const link = one("a", item);
    if (Number(item.dataset["children"]) > 0) link?.setAttribute("aria-expanded", String(!shut));
    item.classList.toggle("folded", shut);
    if (shut && under === Infinity) under = depth(item);
  }
}

function focus(item: HTMLElement | undefined): void {
  if (item) one("a", item)?.focus();
}

one("[data-waterfall]")?.addEventListener("keydown", (event) => {
  const item = (event.target as Element).closest<HTMLElement>("li");
  if (!item) return;
  const shown = items().filter((each) => !each.hidden);
  const at = shown.indexOf(item);
  const id = item.dataset["span"] ?? "";
  const children = Number(item.dataset["children"]);
  if (event.key === "ArrowDown") focus(shown[at + 1]);
  else if (event.key === "ArrowUp") focus(shown[at - 1]);
  else if (event.key === "ArrowLeft" && children && !folded.has(id)) {
    folded.add(id);
    layOut();
    say(`${children} spans folded`);
  } else if (event.key === "ArrowLeft") focus(shown.slice(0, at).reverse().find((each) => depth(each) < depth(item)));
  else if (event.key === "ArrowRight" && folded.delete(id)) layOut();
  else if (event.key === "ArrowRight" && children) focus(shown[at + 1]);
  else return;
  event.preventDefault();
});

layOut();
