/** The playground: builds a call from the form, sends it, and shows the answer and everything about it as it comes. */

import { all, make, one, say } from "./dom";

interface Frame {
  head?: { status: number; headers: [string, string][] };
  body?: string;
  end?: object;
  error?: Problem;
}

interface Problem {
  message?: string;
  hint?: string | null;
  code?: string | null;
}

interface Delta {
  content?: string | null;
  reasoning_content?: string | null;
  reasoning?: string | null;
  refusal?: string | null;
  tool_calls?: { index?: number; id?: string; function?: { name?: string; arguments?: string } }[];
}

interface Chunk {
  choices?: { delta?: Delta; message?: Delta; finish_reason?: string | null }[];
  usage?: { prompt_tokens?: number; completion_tokens?: number } | null;
  error?: Problem;
}

interface Outcome {
  found: boolean;
  span_id: string;
  status: string;
  provider: string;
  model: string;
  duration: number;
  ttft: number | null;
  input_tokens: number;
  output_tokens: number;
  cached_input_tokens: number;
  reasoning_tokens: number;
  estimated: boolean;
  attempts: number;
  cost: number | null;
}

const MOST_SHOWN = 400_000;
const form = one<HTMLFormElement>("#play");
let stopping: AbortController | null = null;
let made = 0;
let runs = 0;

function part<T extends Element = HTMLElement>(name: string): T {
  return one<T>(`[data-${name}]`) as T;
}

function value(id: string): string {
  return (document.getElementById(id) as HTMLInputElement | null)?.value.trim() ?? "";
}

// The form

function turns(): HTMLElement[] {
  return all("[data-turns] > [data-turn]");
}

function addTurn(role = "user", text = ""): HTMLElement {
  const fresh = one<HTMLTemplateElement>("#new-turn")?.content.firstElementChild?.cloneNode(true) as HTMLElement;
  made += 1;
  for (const kind of ["role", "text"]) {
    const field = one(`#${kind}-new`, fresh);
    if (field) field.id = `${kind}-more-${made}`;
    one(`[for=${kind}-new]`, fresh)?.setAttribute("for", `${kind}-more-${made}`);
  }
  const select = one<HTMLSelectElement>("[data-role]", fresh);
  const area = one<HTMLTextAreaElement>("[data-text]", fresh);
  if (select) select.value = role;
  if (area) area.value = text;
  part("turns").append(fresh);
  number();
  return fresh;
}

/** What the buttons are called and which make sense depends on where a turn stands. */
function number(): void {
  const every = turns();
  every.forEach((turn, at) => {
    turn.setAttribute("aria-label", `Turn ${at + 1}`);
    (one<HTMLButtonElement>("[data-do=up]", turn) as HTMLButtonElement).disabled = at === 0;
    (one<HTMLButtonElement>("[data-do=down]", turn) as HTMLButtonElement).disabled = at === every.length - 1;
    (one<HTMLButtonElement>("[data-do=remove]", turn) as HTMLButtonElement).disabled = every.length === 1;
  });
}

function move(button: HTMLElement): void {
  const turn = button.closest<HTMLElement>("[data-turn]");
  if (!turn) return;
  const verb = button.dataset["do"];
  if (verb === "up") turn.previousElementSibling?.before(turn);
  else if (verb === "down") turn.nextElementSibling?.after(turn);
  else {
    const next = (turn.nextElementSibling ?? turn.previousElementSibling) as HTMLElement | null;
    turn.remove();
    if (next) one("[data-text]", next)?.focus();
  }
  number();
  if (verb !== "remove") {
    if ((button as HTMLButtonElement).disabled) one("[data-text]", turn)?.focus();
    else button.focus();
    say(`Now turn ${turns().indexOf(turn) + 1}`);
  }
}

class Mistake extends Error {
  constructor(
    message: string,
    readonly at: HTMLElement | null,
  ) {
    super(message);
  }
}

function figure(id: string, told: string): number | undefined {
  const text = value(id);
  if (!text) return undefined;
  const found = Number(text);
  if (!Number.isFinite(found) || found < 0) throw new Mistake(`${told} is no number.`, document.getElementById(id));
  return found;
}

function object(text: string, told: string, at: HTMLElement | null): Record<string, unknown> {
  try {
    const found: unknown = JSON.parse(text);
    if (found !== null && typeof found === "object" && !Array.isArray(found)) return found as Record<string, unknown>;
  } catch {
    // Told below.
  }
  throw new Mistake(`${told} is no JSON object.`, at);
}

/** The body of the call, as it is sent. */
function body(): Record<string, unknown> {
  const messages: unknown[] = [];
  for (const turn of turns()) {
    const role = one<HTMLSelectElement>("[data-role]", turn)?.value ?? "user";
    const area = one<HTMLTextAreaElement>("[data-text]", turn);
    const text = area?.value ?? "";
    if (role === "json") messages.push(object(text, "The message", area));
    else if (text.trim()) messages.push({ role, content: text });
  }
  if (!messages.length) throw new Mistake("Say something first.", one("[data-turn]:last-child [data-text]"));
  const call: Record<string, unknown> = { model: value("route"), messages };
  const temperature = figure("temperature", "The temperature");
  const most = figure("max-tokens", "The number of tokens");
  if (temperature !== undefined) call["temperature"] = temperature;
  if (most !== undefined) call["max_tokens"] = most;
  if (one<HTMLInputElement>("#stream")?.checked) {
    call["stream"] = true;
    call["stream_options"] = { include_usage: true };
  }
  const more = value("more");
  return more ? { ...call, ...object(more, "What stands under “More parameters”", document.getElementById("more")) } : call;
}

// The answer

/** Follows an answer: a stream of events, or one JSON document at its end. */
class Answer {
  text = "";
  first = 0;
  finish = "";
  problem: Problem | null = null;
  usage: Chunk["usage"] = null;
  private rest = "";
  private whole = "";
  private readonly calls = new Map<number, { id: string; name: string; arguments: string }>();

  constructor(
    readonly began: number,
    public streamed: boolean,
  ) {}

  take(piece: string): void {
    if (!this.streamed) {
      this.whole += piece;
      return;
    }
    const lines = (this.rest + piece).split(/\r?\n/);
    this.rest = lines.pop() ?? "";
    for (const line of lines) if (line.startsWith("data:")) this.event(line.slice(5).trim());
  }

  end(): void {
    if (!this.streamed) this.event(this.whole);
    else if (this.rest.startsWith("data:")) this.event(this.rest.slice(5).trim());
  }

  private event(data: string): void {
    if (!data || data === "[DONE]") return;
    let chunk: Chunk;
    try {
      chunk = JSON.parse(data) as Chunk;
    } catch {
      return;
    }
    if (chunk.error) this.problem = chunk.error;
    if (chunk.usage) this.usage = chunk.usage;
    for (const choice of chunk.choices ?? []) {
      if (choice.finish_reason) this.finish = choice.finish_reason;
      const delta = choice.delta ?? choice.message;
      if (delta) this.said(delta);
    }
  }

  private said(delta: Delta): void {
    const thought = delta.reasoning_content ?? delta.reasoning;
    const text = delta.content ?? delta.refusal;
    if ((thought || text || delta.tool_calls?.length) && !this.first) {
      this.first = performance.now() - this.began;
      set("first", span(this.first));
    }
    if (thought) {
      part("thinking").hidden = false;
      part("thought").append(thought);
    }
    if (text) {
      this.text += text;
      part("answer").append(text);
    }
    delta.tool_calls?.forEach((call, at) => {
      const known = this.calls.get(call.index ?? at) ?? { id: "", name: "", arguments: "" };
      known.id ||= call.id ?? "";
      known.name ||= call.function?.name ?? "";
      known.arguments += call.function?.arguments ?? "";
      this.calls.set(call.index ?? at, known);
    });
    if (this.calls.size) {
      part("tools").hidden = false;
      part("calls").textContent = [...this.calls.values()].map((call) => `${call.name}(${call.arguments})`).join("\n");
    }
  }

  /** The answer as a turn of the conversation. */
  turn(): [string, string] {
    if (!this.calls.size) return ["assistant", this.text];
    const calls = [...this.calls.values()].map(({ id, name, arguments: given }) => ({
      id,
      type: "function",
      function: { name, arguments: given },
    }));
    return ["json", JSON.stringify({ role: "assistant", content: this.text || null, tool_calls: calls }, null, 2)];
  }
}

function span(milliseconds: number): string {
  if (milliseconds < 1000) return `${milliseconds < 100 ? milliseconds.toPrecision(3) : milliseconds.toFixed(0)} ms`;
  return `${(milliseconds / 1000).toFixed(2)} s`;
}

function money(nano: number | null): string {
  if (nano === null) return "unpriced";
  if (nano === 0) return "$0.00";
  const dollars = nano / 1e9;
  return dollars >= 10 ? `$${dollars.toFixed(2)}` : `$${Number(dollars.toPrecision(3)).toFixed(12).replace(/0+$/, "").replace(/\.$/, "")}`;
}

/** A figure's text; what stands below it stays, or is said anew. */
function set(name: string, text: string, below?: string): void {
  const at = part(name);
  const sub = one(".sub", at);
  if (sub && below !== undefined) sub.textContent = below;
  at.replaceChildren(text, ...(sub ? [sub] : []));
}

function state(kind: "busy" | "good" | "bad" | "idle", word: string): void {
  const at = part("state");
  at.className = `state ${kind}`;
  at.textContent = { busy: "◌ ", good: "✓ ", bad: "✕ ", idle: "" }[kind] + word;
}

function fail(problem: Problem, status = 0): void {
  const at = part("failed");
  at.replaceChildren(
    make(
      "div",
      {},
      make("strong", {}, status ? `${status}${problem.code ? ` ${problem.code}` : ""}: ` : ""),
      problem.message ?? "The call failed.",
      ...(problem.hint ? [" ", make("span", { class: "hint" }, problem.hint)] : []),
    ),
  );
  at.hidden = false;
}

function clear(call: Record<string, unknown>): void {
  for (const name of ["answer", "thought", "calls", "response", "headers"]) part(name).replaceChildren();
  for (const name of ["thinking", "tools", "failed", "next", "trace"]) part(name).hidden = true;
  set("first", "–");
  set("total", "–");
  set("tokens", "–", "in, out");
  set("cost", "–", "by the prices");
  part("response-size").textContent = "as it came";
  part("status").textContent = "status and headers";
  const text = JSON.stringify(call, null, 2);
  part("request").textContent = text;
  part("request-size").textContent = `${text.length.toLocaleString("en")} characters to /v1/chat/completions`;
}

function busy(on: boolean): void {
  part("stop").hidden = !on;
  part<HTMLButtonElement>("run").disabled = on;
}

async function run(): Promise<void> {
  if (stopping) return;
  const wrong = part("wrong");
  wrong.hidden = true;
  for (const marked of all("#play [aria-invalid]")) marked.removeAttribute("aria-invalid");
  let call: Record<string, unknown>;
  try {
    call = body();
  } catch (error) {
    if (!(error instanceof Mistake)) throw error;
    wrong.textContent = error.message;
    wrong.hidden = false;
    error.at?.setAttribute("aria-invalid", "true");
    error.at?.focus();
    return;
  }
  clear(call);
  state("busy", "waiting for the first token");
  const control = (stopping = new AbortController());
  const turn = ++runs;
  busy(true);
  const began = performance.now();
  const answer = new Answer(began, call["stream"] === true);
  let headers: [string, string][] = [];
  try {
    headers = await follow(call, control.signal, answer);
    const took = performance.now() - began;
    set("total", span(took));
    state(answer.problem ? "bad" : "good", answer.problem ? "failed" : `finished${answer.finish ? `: ${answer.finish}` : ""}`);
    say(answer.problem ? "The call failed" : "The answer is complete");
    part("next").hidden = answer.problem !== null;
  } catch (error) {
    set("total", span(performance.now() - began));
    if (control.signal.aborted) {
      state("idle", "stopped");
      say("Stopped");
    } else {
      state("bad", "failed");
      fail({ message: "The connection to the console broke off.", hint: "Is `detent up` still running?" });
      if (!(error instanceof TypeError)) throw error;
    }
  } finally {
    stopping = null;
    busy(false);
  }
  last = answer;
  const usage = answer.usage;
  if (usage) set("tokens", `${(usage.prompt_tokens ?? 0) + (usage.completion_tokens ?? 0)}`, `${usage.prompt_tokens ?? 0} in, ${usage.completion_tokens ?? 0} out`);
  await trace(new Map(headers), () => turn === runs);
}

let last: Answer | null = null;

/** Send the call and take its answer in; the headers of it. */
async function follow(call: object, signal: AbortSignal, answer: Answer): Promise<[string, string][]> {
  const token = one<HTMLMetaElement>("meta[name=csrf]")?.content ?? "";
  const got = await fetch("/playground/run", {
    method: "POST",
    headers: { "content-type": "application/json", accept: "application/json", "x-csrf-token": token },
    body: JSON.stringify(call),
    signal,
  });
  if (!got.ok || !got.body) {
    const told = (await got.json().catch(() => ({}))) as { error?: Problem };
    answer.problem = told.error ?? {};
    fail(answer.problem, got.status);
    return [];
  }
  const reader = got.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let headers: [string, string][] = [];
  let status = 0;
  let size = 0;
  for (;;) {
    const { done, value: piece } = await reader.read();
    if (done) break;
    const lines = (rest + piece).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      const frame = JSON.parse(line) as Frame;
      if (frame.head) {
        ({ status, headers } = frame.head);
        part("status").textContent = `status ${status}`;
        part("headers").replaceChildren(...headers.flatMap(([name, told]) => [make("dt", {}, name), make("dd", {}, told)]));
        if (status < 300) state("busy", answer.streamed ? "streaming" : "waiting for the answer");
        // An error is one document, also where a stream was asked for.
        if (status >= 300) answer.streamed = false;
      }
      if (frame.body !== undefined) {
        if (size < MOST_SHOWN) part("response").append(frame.body);
        size += frame.body.length;
        part("response-size").textContent = `${size.toLocaleString("en")} characters${size > MOST_SHOWN ? ", the first are shown" : ""}`;
        answer.take(frame.body);
      }
      if (frame.error) answer.problem = frame.error;
    }
  }
  answer.end();
  if (status >= 300 && !answer.problem) answer.problem = { message: "The answer is an error; see the response." };
  if (answer.problem) fail(answer.problem, status >= 300 ? status : 0);
  return headers;
}

/** What the gateway recorded of the call, as soon as it is in the lake. */
async function trace(headers: Map<string, string>, current: () => boolean): Promise<void> {
  const id = headers.get("x-detent-trace-id") ?? "";
  const span_id = headers.get("x-request-id") ?? "";
  if (!/^[0-9a-f]{32}$/.test(id)) return;
  const at = part("trace");
  const link = make("a", { href: `/traces/${id}?span=${span_id}`, class: "mono" }, `${id.slice(0, 12)}…`);
  // A link would lead nowhere until the span is in the lake.
  at.replaceChildren(`Trace ${id.slice(0, 12)}… is being recorded.`);
  at.hidden = false;
  for (let tries = 0; tries < 40 && current(); tries += 1) {
    const got = await fetch(`/playground/outcome.json?trace=${id}&span=${encodeURIComponent(span_id)}`, { headers: { accept: "application/json" } });
    if (!got.ok) return;
    const found = (await got.json()) as Outcome;
    if (found.found && current()) {
      at.replaceChildren("Trace ", link);
      show(found, at);
      return;
    }
    await new Promise((wake) => setTimeout(wake, 250));
  }
  if (current()) at.replaceChildren("Trace ", link, " is not recorded yet; see `detent status`.");
}

function show(found: Outcome, at: HTMLElement): void {
  const extra = [
    found.cached_input_tokens ? `, ${found.cached_input_tokens} cached` : "",
    found.reasoning_tokens ? `, ${found.reasoning_tokens} reasoning` : "",
    found.estimated ? ", estimated" : "",
  ].join("");
  set("tokens", `${found.input_tokens + found.output_tokens}`, `${found.input_tokens} in, ${found.output_tokens} out${extra}`);
  set("cost", money(found.cost), found.cost === null ? "no price is known" : "by the prices");
  const own = [found.ttft === null ? "" : `first token ${span(found.ttft / 1e6)}`, `total ${span(found.duration / 1e6)}`];
  at.append(
    found.provider ? ` served by ${found.provider}/${found.model}` : " answered by the gateway itself",
    found.attempts > 1 ? ` after ${found.attempts} attempts` : "",
    `; the gateway measured ${own.filter(Boolean).join(", ")}.`,
  );
}

function goOn(): void {
  if (!last) return;
  addTurn(...last.turn());
  const next = addTurn();
  one("[data-text]", next)?.focus();
  part("next").hidden = true;
}

if (form) {
  number();
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    void run();
  });
  document.addEventListener("click", (event) => {
    const button = (event.target as Element).closest<HTMLElement>("[data-do], [data-add], [data-stop], [data-continue]");
    if (!button) return;
    if (button.matches("[data-do]")) move(button);
    else if (button.matches("[data-add]")) one("[data-text]", addTurn())?.focus();
    else if (button.matches("[data-stop]")) stopping?.abort();
    else goOn();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      void run();
    } else if (event.key === "Escape") stopping?.abort();
  });
  form.addEventListener("change", (event) => {
    const select = (event.target as Element).closest<HTMLSelectElement>("[data-role]");
    one("[data-text]", select?.closest("[data-turn]") ?? form)?.classList.toggle("code", select?.value === "json");
  });
}
