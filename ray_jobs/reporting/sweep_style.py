"""The style sheet of the pages of sweeps, after ``ray_jobs.reporting.style``."""

STYLE = """
.chart .interval { fill: none; stroke: var(--accent); stroke-width: 1.9; }
.chart .whisker { fill: none; stroke: var(--muted); stroke-width: 1; stroke-opacity: .55; }
.chart .base { stroke: var(--muted); stroke-width: 1; stroke-opacity: .5; }
.chart circle.bubble { stroke: var(--accent); }
.chart .label.main { fill: var(--ink); font-weight: 600; }
.chart .beside { font-size: 11px; } .chart .beside.main { fill: var(--ink); font-weight: 600; }
.chart .beside, .panels .label, .panels .value { stroke: var(--card); stroke-width: 3.5px; paint-order: stroke; }
.chart .beside, .panels .label, .panels .value { stroke-linejoin: round; }
.chart .trend { fill: none; stroke: var(--accent); stroke-width: 1.5; stroke-opacity: .6; }
.chart .over { fill: var(--ink); stroke: var(--card); stroke-width: 4px; paint-order: stroke; stroke-linejoin: round; }
.answer > figure { margin: 18px 0 0; padding: 16px 18px 14px; }
.panels { display: grid; gap: 22px 34px; grid-template-columns: repeat(3, minmax(0, 1fr)); }
.panels.two { grid-template-columns: repeat(2, minmax(0, 1fr)); } .panels.one { grid-template-columns: minmax(0, 1fr); }
.panels h3 { margin-bottom: 8px; } .panels .chart { max-width: 500px; } .panels.one .chart { max-width: 430px; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 18px; margin: 8px 0 0; color: var(--muted); font-size: 13px; }
.legend .key { display: inline-block; width: 14px; margin-right: 6px; vertical-align: middle; }
.legend .key.across { border-top: 1.5px dashed var(--muted); }
.legend .key.dot { width: 8px; height: 8px; border-radius: 4px; background: var(--reference); }
.legend-of-all { margin: 34px 0 -26px; }
.scroll + .note { margin-top: 10px; }
.answer .scroll { margin-top: 14px; }
.tight th, .tight td { padding-top: 6px; padding-bottom: 6px; } .tight thead th + th { width: auto; }
.tight tbody th { min-width: 0; white-space: nowrap; }
.tight .state { white-space: normal; min-width: 70px; overflow-wrap: anywhere; }
.tight .long { min-width: 260px; }
.by { margin-top: 26px; } .by > h3 { font-size: 17px; }
.by .charts { margin-top: 10px; }
figure.wide { margin: 18px 0 0; padding: 14px; } .wide .chart { min-width: 720px; }
@media (min-width: 861px) {
  .beside-it { display: grid; grid-template-columns: minmax(0, 7fr) minmax(0, 10fr); column-gap: 14px; align-items: stretch; }
  .beside-it h2 { grid-column: 1 / -1; } .beside-it .scroll { margin-top: 18px; }
  .beside-it th + th, .beside-it td { padding-left: 8px; padding-right: 8px; }
  .beside-it th:last-child, .beside-it td:last-child { padding-right: 16px; }
  .beside-it thead th + th + th + th { min-width: 104px; } .beside-it td { font-size: 14px; }
  .beside-it table { height: 100%; } .beside-it td, .beside-it tbody th { vertical-align: middle; }
}
@media (max-width: 860px) { .panels { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
@media (max-width: 620px) {
  .panels, .panels.two { grid-template-columns: minmax(0, 1fr); }
  .tight th, .tight td { padding: 6px 9px; }
}
@media print {
  .legend-of-all { margin: 18px 0 -14px; }
  .panels > div { break-inside: avoid; } .wide .chart { min-width: 0; } .scroll { overflow: visible; }
  .tight { font-size: 10.5px; } .tight th, .tight td { padding: 3px 6px; }
}
"""
