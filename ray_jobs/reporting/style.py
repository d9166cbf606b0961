"""The report's style sheet: system fonts, one accent, light and dark, phone and paper."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #faf9f6; --card: #ffffff; --ink: #1c2127; --muted: #5c6570; --line: #e4e1da; --wash: #f1efe9;
  --accent: #0a6c74; --accent-soft: #0a6c7433; --reference: #b3aea2; --good: #0a6c74; --bad: #a4452c;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171a; --card: #1b1f23; --ink: #e9e7e2; --muted: #a0a8b1; --line: #2d3338; --wash: #22272c;
    --accent: #63c5c1; --accent-soft: #63c5c140; --reference: #5d6670; --good: #63c5c1; --bad: #e58a6e;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; font-variant-numeric: tabular-nums;
}
main { max-width: 1040px; margin: 0 auto; padding: 56px 24px 72px; }
h1, h2 {
  font-family: ui-serif, "Iowan Old Style", Georgia, "Noto Serif", serif; font-weight: 600; line-height: 1.2;
  text-wrap: balance;
}
h1 { font-size: 40px; letter-spacing: -.015em; margin: 0 0 14px; }
h2 { font-size: 25px; letter-spacing: -.01em; margin: 0 0 6px; }
h3 { font-size: 15px; font-weight: 600; margin: 0 0 2px; }
p { margin: 0 0 12px; max-width: 68ch; text-wrap: pretty; }
section { margin-top: 60px; }
small, .note, figcaption { color: var(--muted); font-size: 13.5px; line-height: 1.45; }
.eyebrow { color: var(--accent); font-size: 13px; font-weight: 600; letter-spacing: .04em; margin: 0 0 10px; }
.lead { font-size: 18px; color: var(--ink); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }

.tiles { display: grid; gap: 12px; margin: 30px 0 18px; padding: 0; list-style: none; }
.tiles { grid-template-columns: repeat(var(--columns), minmax(0, 290px)); }
.tiles li { padding: 16px 16px 14px; }
.tiles .name { display: block; font-size: 13.5px; color: var(--muted); }
.tiles .figure { display: block; font-size: 31px; line-height: 1.25; font-weight: 600; letter-spacing: -.02em; }
.tiles .figure { white-space: nowrap; }
.tiles .figure i { font: 400 15px system-ui, sans-serif; color: var(--muted); margin-left: 4px; letter-spacing: 0; }
.tiles .figure.of { font-size: 22px; line-height: 1.35; }
.tiles .figure.of i { font-size: 12.5px; }
.tiles .figure.of i:last-child { display: block; margin: -3px 0 4px; white-space: normal; overflow-wrap: anywhere; }
.tiles .beside { display: block; font-size: 12.5px; line-height: 1.4; color: var(--muted); }
.how { border-left: 3px solid var(--accent); padding: 2px 0 2px 14px; margin-top: 22px; color: var(--muted); font-size: 14.5px; }
.how b { color: var(--ink); font-weight: 600; }

details { margin-top: 18px; }
summary { cursor: pointer; padding: 8px 0; font-weight: 600; border-bottom: 1px solid var(--line); }
.group { margin: 22px 0 8px; color: var(--muted); font-size: 13.5px; }
.group b { color: var(--ink); font-weight: 600; font-size: 15px; margin-right: 6px; }
.gallery { display: grid; grid-template-columns: repeat(2, 1fr); gap: 14px; }
.gallery figure { margin: 0; padding: 10px; break-inside: avoid; }
.trio { display: grid; grid-template-columns: repeat(3, 1fr); gap: 6px; }
.trio img, .trio svg { display: block; width: 100%; aspect-ratio: 1; border-radius: 4px; background: var(--wash); }
.trio .pixels, .pixels image { image-rendering: pixelated; }
.gallery figcaption { margin-top: 8px; }
.gallery figcaption b { color: var(--ink); font-weight: 600; }
.gallery .said { display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 2; overflow: hidden; }
.map { cursor: pointer; overflow: hidden; }
.map path { fill-opacity: .82; transition: fill-opacity .12s; }
.map .seams { fill: none; stroke: #000; stroke-opacity: .5; stroke-linejoin: round; pointer-events: none; }
.map text { display: none; fill: #fff; stroke: #000; paint-order: stroke; font-weight: 700; pointer-events: none;
  text-anchor: middle; dominant-baseline: central; }
.map:hover .token path { fill-opacity: .12; }
.map .token:hover path { fill-opacity: .88; }
.map .token:hover text { display: block; }

.charts { display: grid; gap: 14px; grid-template-columns: repeat(3, 1fr); margin-top: 18px; }
.charts.two { grid-template-columns: repeat(2, 1fr); }
.charts.one { grid-template-columns: 1fr; }
.charts.one figure { display: grid; grid-template-columns: repeat(2, 1fr); column-gap: 24px; align-items: center; }
.charts.one h3 { grid-column: 1 / -1; }
.charts figure { margin: 0; padding: 14px 14px 12px; break-inside: avoid; display: flex; flex-direction: column; }
.charts figcaption { margin-top: 4px; }
.charts h3 { margin-bottom: 8px; }
.charts h3 small { font-weight: 400; margin-left: 4px; }
.chart { display: block; width: 100%; height: auto; font-family: inherit; }
.chart text { font-size: 11px; fill: var(--muted); }
.chart .label { font-size: 12px; } .chart .value { font-size: 12px; } .chart .value.main { fill: var(--ink); font-weight: 600; }
.chart .grid { stroke: var(--line); stroke-width: 1; }
.chart .line { fill: none; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; }
.chart .mark { stroke: var(--accent); } .chart circle.mark, .chart .mark.bar { fill: var(--accent); stroke: none; }
.chart .mark-soft { stroke: var(--accent); stroke-opacity: .45; } .chart .mark-soft.line { stroke-width: 1; }
.chart .bubble { fill: var(--accent-soft); stroke-opacity: .5; }
.chart .reference { fill: var(--reference); }
.chart .across { stroke: var(--muted); stroke-width: 1.2; stroke-dasharray: 4 3; }
.chart .track { fill: var(--wash); } .chart .chance { stroke: var(--muted); stroke-width: 1.4; }
.charts.two > figure:last-child:nth-child(odd), .charts.three > figure:last-child:nth-child(3n + 1) { grid-column: 1 / -1; }
.charts > figure:last-child .chart { max-width: 480px; }

.scroll { overflow-x: auto; margin-top: 18px; }
table { width: 100%; border-collapse: collapse; font-size: 14.5px; }
th, td { padding: 10px 12px; text-align: right; vertical-align: top; border-top: 1px solid var(--line); }
thead th { font-size: 12.5px; font-weight: 500; color: var(--muted); border-top: 0; vertical-align: bottom; line-height: 1.3; }
th:first-child, td:first-child { text-align: left; padding-left: 16px; }
tbody th { font-weight: 600; min-width: 210px; }
tbody th small { display: block; font-weight: 400; max-width: 62ch; }
tbody th.wide { padding-bottom: 6px; } tbody th.wide small { max-width: 84ch; }
tbody th.set { font-weight: 400; color: var(--muted); min-width: 110px; }
tbody tr.more th, tbody tr.more td { border-top: 0; padding-top: 3px; padding-bottom: 3px; }
tbody tr.more:has(+ tr:not(.more)) > *, tbody tr.more:last-child > * { padding-bottom: 12px; }
.unit { font-weight: 400; color: var(--muted); font-size: 13px; }
td.ours { font-weight: 600; }
td.none { color: var(--muted); }
thead th + th { width: 12%; }
.compared thead th:nth-child(2) { color: var(--ink); font-weight: 600; }
.beside thead th { width: auto; overflow-wrap: anywhere; min-width: 76px; }
.beside tbody th, .beside tbody td { border-top: 0; padding-top: 2px; padding-bottom: 2px; }
.beside tbody th, .beside tbody td, .types tbody th { min-width: 0; vertical-align: baseline; }
.beside .task th { border-top: 1px solid var(--line); padding: 14px 16px 2px; font-weight: 600; color: var(--accent); }
.beside .task small { display: inline; margin-left: 10px; }
.beside .figure > * { padding-top: 8px; font-weight: 500; }
.beside .task + .figure > * { padding-top: 4px; }
.beside .reference > * { color: var(--muted); font-size: 13px; font-weight: 400; } .beside .reference th { padding-left: 30px; }
.beside tr:last-child > *, .beside tr:has(+ .task) > * { padding-bottom: 12px; }
.beside td b { font-weight: 700; color: var(--accent); }
td { white-space: nowrap; }
th:last-child, td:last-child { padding-right: 16px; }
.beats { color: var(--bad); font-size: .8em; }
.notes { margin: 12px 0 0; padding-left: 20px; color: var(--muted); font-size: 13.5px; }

dl { display: grid; grid-template-columns: repeat(2, 1fr); gap: 0 36px; margin: 18px 0 0; }
dl div { display: flex; justify-content: space-between; gap: 16px; padding: 7px 0; border-bottom: 1px solid var(--line); }
dt { color: var(--muted); } dd { margin: 0; text-align: right; overflow-wrap: anywhere; }
footer { margin-top: 64px; padding-top: 16px; border-top: 1px solid var(--line); color: var(--muted); font-size: 13.5px; }

@media (max-width: 860px) {
  .tiles { grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); }
  .charts, .charts.three { grid-template-columns: repeat(2, 1fr); }
}
@media (max-width: 620px) {
  body { font-size: 15.5px; }
  main { padding: 30px 16px 48px; }
  h1 { font-size: 30px; } h2 { font-size: 22px; } .lead { font-size: 16.5px; }
  section { margin-top: 44px; }
  .tiles { grid-template-columns: repeat(2, 1fr); gap: 10px; }
  .tiles li:first-child:nth-last-child(odd) { grid-column: 1 / -1; }
  .gallery, .charts, .charts.two, .charts.three, .charts.one figure, dl { grid-template-columns: minmax(0, 1fr); }
  th, td { padding: 9px 9px; } thead th + th { width: auto; }
  .types th, .types td { padding: 9px 6px; }
  tbody th { min-width: 150px; } tbody th.set { min-width: 64px; }
  thead th:first-child, tbody th[scope="row"] { position: sticky; left: 0; background: var(--card); }
  tbody th small { font-size: 12.5px; } tbody th.wide small { max-width: min(84ch, calc(100vw - 66px)); }
}
@media (prefers-reduced-motion: reduce) { .map path { transition: none; } }
@media print {
  :root { --paper: #fff; --card: #fff; --ink: #111; --muted: #555; --line: #ddd; --wash: #f5f5f5; --accent: #0a6c74;
    --accent-soft: #0a6c7433; --reference: #b3aea2; }
  main { max-width: none; padding: 0; }
  section { margin-top: 34px; } h2 { break-after: avoid; }
  body { font-size: 12px; }
  .gallery { grid-template-columns: repeat(3, 1fr); }
  tr, .tiles { break-inside: avoid; }
  details::details-content { content-visibility: visible; height: auto; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
