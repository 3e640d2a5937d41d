/** The charts of the home page: drawn from the table beside them, one cursor for all, by mouse or by arrow keys. */

import uPlot from "uplot";
import { all, one, say } from "./dom";

interface Row {
  at: number;
  href: string;
  values: (number | null)[];
}

interface Line {
  label: string;
  column: number;
  colour: string;
  bars?: boolean;
  format: (value: number) => string;
}

const count = (value: number): string => value.toLocaleString("en");
const span = (ns: number): string =>
  ns === 0 ? "0" : ns >= 1e9 ? `${+(ns / 1e9).toPrecision(3)} s` : ns >= 1e6 ? `${+(ns / 1e6).toPrecision(3)} ms` : `${+(ns / 1e3).toPrecision(3)} µs`;
const money = (nano: number): string => (nano === 0 ? "$0" : `$${(nano / 1e9).toFixed(Math.max(2, 2 - Math.floor(Math.log10(nano / 1e9))))}`.replace(/(\.\d\d\d*?)0+$/, "$1"));
const short = (value: number): string =>
  value >= 1e6 ? `${+(value / 1e6).toPrecision(3)}M` : value >= 1e4 ? `${+(value / 1e3).toPrecision(3)}k` : count(value);

const CHARTS: Record<string, Line[]> = {
  requests: [
    { label: "requests", column: 0, colour: "--series-1", bars: true, format: count },
    { label: "failed", column: 1, colour: "--series-bad", bars: true, format: count },
  ],
  latency: [
    { label: "p95", column: 3, colour: "--series-1", format: span },
    { label: "p50", column: 2, colour: "--series-2", format: span },
  ],
  cost: [{ label: "cost", column: 6, colour: "--series-1", bars: true, format: money }],
  tokens: [
    { label: "in", column: 4, colour: "--series-2", format: short },
    { label: "out", column: 5, colour: "--series-1", format: short },
  ],
};

/** How high an axis is while there is nothing on it. */
const EMPTY: Record<string, number> = { requests: 4, latency: 1e8, cost: 1e7, tokens: 100 };

const plots: uPlot[] = [];
let rows: Row[] = [];
let step = 3600;

function read(): Row[] {
  return all<HTMLTableRowElement>("#over-time-data tbody tr").map((row) => ({
    at: Number(row.dataset["at"]),
    href: one<HTMLAnchorElement>("a", row)?.href ?? "",
    values: (row.dataset["v"] ?? "").split(",").map((text) => (text === "" ? null : Number(text))),
  }));
}

function colour(name: string): string {
  // A custom property is text; what `light-dark()` comes to is known only to an element that uses it.
  const probe = document.createElement("i");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}

const two = (value: number): string => String(value).padStart(2, "0");

function when(seconds: number, long = false): string {
  const at = new Date(seconds * 1000);
  const day = `${at.getUTCFullYear()}-${two(at.getUTCMonth() + 1)}-${two(at.getUTCDate())}`;
  const time = `${two(at.getUTCHours())}:${two(at.getUTCMinutes())}`;
  if (long) return step >= 86400 ? day : `${day} ${time}`;
  return step >= 21600 ? day.slice(5) : time;
}

function legend(figure: Element, lines: Line[], index: number | null): void {
  const place = one("[data-legend]", figure);
  if (!place) return;
  const row = index === null ? undefined : rows[index];
  place.replaceChildren();
  if (row) place.append(Object.assign(document.createElement("time"), { textContent: when(row.at, true) }));
  lines.forEach((line) => {
    const item = document.createElement("span");
    item.className = `series ${line.colour.slice(2)}`;
    const value = row?.values[line.column];
    item.textContent = row ? `${line.label} ${value === null || value === undefined ? "–" : line.format(value)}` : line.label;
    place.append(item);
  });
}

function data(lines: Line[]): uPlot.AlignedData {
  return [rows.map((row) => row.at), ...lines.map((line) => rows.map((row) => row.values[line.column] ?? null))] as uPlot.AlignedData;
}

function draw(figure: HTMLElement): void {
  const lines = CHARTS[figure.dataset["chart"] ?? ""];
  const place = one(".plot", figure);
  if (!lines || !place) return;
  place.replaceChildren();
  const bars = uPlot.paths.bars?.({ size: [0.62, 28, 1], radius: 0.16 });
  const line = uPlot.paths.linear?.();
  const first = lines[0] as Line;
  const faint = colour("--text-faint");
  const grid = { stroke: colour("--grid"), width: 1 };
  const font = `11px ${getComputedStyle(document.body).fontFamily}`;
  const plot = new uPlot(
    {
      width: Math.max(place.clientWidth, 200),
      height: 148,
      padding: [10, 8, 0, 0],
      legend: { show: false },
      cursor: {
        sync: { key: "home" },
        y: false,
        points: { size: 7 },
        drag: { x: false, y: false },
        bind: { dblclick: () => null },
      },
      scales: {
        x: { time: false, range: (_u, low, high) => [low - step * 0.6, high + step * 0.6] },
        y: { range: (_u, _low, high) => [0, high > 0 ? high * 1.12 : EMPTY[figure.dataset["chart"] ?? ""] ?? 1] },
      },
      axes: [
        {
          stroke: faint,
          font,
          size: 26,
          grid: { show: false },
          ticks: { show: false },
          space: 64,
          splits: (u) => ticks(u.width),
          values: (_u, at) => at.map((seconds) => when(seconds)),
        },
        {
          stroke: faint,
          font,
          size: 58,
          gap: 4,
          grid,
          ticks: { show: false },
          space: 34,
          values: (_u, at) => at.map((value) => (Number.isInteger(value) || first.format !== count ? first.format(value) : "")),
        },
      ],
      series: [
        {},
        ...lines.map((l): uPlot.Series => ({
          label: l.label,
          stroke: colour(l.colour),
          width: l.bars ? 0 : 1.75,
          ...(l.bars ? { fill: colour(l.colour) } : {}),
          ...(l.bars && bars ? { paths: bars } : line ? { paths: line } : {}),
          points: { show: !l.bars, size: 4, fill: colour(l.colour) },
          spanGaps: false,
        })),
      ],
      hooks: { setCursor: [(u) => legend(figure, lines, u.cursor.idx ?? null)] },
    },
    data(lines),
    place,
  );
  plots.push(plot);
  legend(figure, lines, null);
  place.onkeydown = (event: KeyboardEvent) => move(event, plot, lines);
  place.onblur = () => plots.forEach((each) => each.setCursor({ left: -10, top: -10 }));
  place.ondblclick = () => follow(plot.cursor.idx);
}

function ticks(width: number): number[] {
  const every = Math.max(1, Math.ceil(rows.length / Math.max(2, Math.floor(width / 76))));
  return rows.filter((_row, at) => (rows.length - 1 - at) % every === 0).map((row) => row.at);
}

function move(event: KeyboardEvent, plot: uPlot, lines: Line[]): void {
  const at = plot.cursor.idx ?? null;
  const last = rows.length - 1;
  const next = { ArrowLeft: (at ?? last + 1) - 1, ArrowRight: (at ?? -1) + 1, Home: 0, End: last }[event.key];
  if (event.key === "Enter") follow(at);
  if (next === undefined) return;
  event.preventDefault();
  const to = Math.min(Math.max(next, 0), last);
  const row = rows[to];
  if (!row) return;
  for (const each of plots) each.setCursor({ left: each.valToPos(row.at, "x"), top: 10 });
  say(`${when(row.at, true)}: ` + lines.map((l) => `${l.label} ${row.values[l.column] == null ? "none" : l.format(row.values[l.column] ?? 0)}`).join(", "));
}

function follow(at: number | null | undefined): void {
  const row = at === null || at === undefined ? undefined : rows[at];
  if (row?.href) location.assign(row.href);
}

function redraw(): void {
  const holder = one("[data-charts]");
  rows = read();
  step = Number(holder?.dataset["bucket"] ?? 3.6e12) / 1e9;
  for (const plot of plots.splice(0)) plot.destroy();
  for (const figure of all("[data-chart]")) draw(figure);
}

let drawn = "";
function refresh(): void {
  const text = all<HTMLTableRowElement>("#over-time-data tbody tr").map((row) => `${row.dataset["at"]}:${row.dataset["v"]}`).join();
  if (text === drawn && plots.length) return;
  const same = rows.length && rows[0]?.at === read()[0]?.at && plots.length;
  drawn = text;
  if (!same) return redraw();
  rows = read();
  all("[data-chart]").forEach((figure, at) => {
    const lines = CHARTS[figure.dataset["chart"] ?? ""];
    if (lines) plots[at]?.setData(data(lines));
  });
}

refresh();
document.addEventListener("htmx:after:swap", refresh);
document.addEventListener("detent:theme", redraw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
let later = 0;
let width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === width) return;
  width = innerWidth;
  clearTimeout(later);
  later = window.setTimeout(redraw, 120);
});
