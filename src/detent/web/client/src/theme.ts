/** Light, dark, or as the system has it. Kept in a cookie, so that the server renders the right one at once. */

import { one, say } from "./dom";

const ORDER = ["system", "light", "dark"] as const;

export function startTheme(): void {
  document.addEventListener("click", (event) => {
    if ((event.target as Element).closest("[data-theme-toggle]")) nextTheme();
  });
}

export function nextTheme(): void {
  const root = document.documentElement;
  const now = root.dataset["theme"] ?? "system";
  const next = ORDER[(ORDER.indexOf(now as (typeof ORDER)[number]) + 1) % ORDER.length] ?? "system";
  const secure = location.protocol === "https:" ? "; Secure" : "";
  if (next === "system") {
    delete root.dataset["theme"];
    document.cookie = `detent_theme=; Path=/; Max-Age=0; SameSite=Lax${secure}`;
  } else {
    root.dataset["theme"] = next;
    document.cookie = `detent_theme=${next}; Path=/; Max-Age=31536000; SameSite=Lax${secure}`;
  }
  const name = one("[data-theme-name]");
  if (name) name.textContent = next;
  say(`Theme: ${next}`);
  document.dispatchEvent(new Event("detent:theme"));
}
