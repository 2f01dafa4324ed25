// Lines over time: hover shows values, dragging zooms, the legend picks.
import { useEffect, useMemo, useRef, useState } from 'preact/hooks';
import uPlot from 'uplot';
import { Banner, count, Series, seriesText } from '../lib/parts.jsx';
import { formatInstant, utc } from '../lib/time.js';
import { seriesColour } from './palette.js';
import { axisNumber, columns, legendNumber, stacked } from './points.js';

/** More lines than this say nothing and cost much: the first are drawn, and the page says so. */
const DRAWN_MAX = 400;
const LEGEND_MAX = 24;
const HEIGHT = 380;

export function Graph({ answer, mode, onZoom }) {
  const { data } = answer;
  if (data.resultType === 'string') return <Banner kind="info">A text has no graph.</Banner>;
  const histograms = data.result.filter(({ histograms: some }) => some?.length).length;
  const drawable = data.result.filter(({ values }) => values?.length);
  return (
    <>
      {histograms > 0 && <Banner kind="info">{count(histograms, 'series', 'series')} of native histograms: a line needs a number, for example <code>histogram_quantile(0.9, …)</code>. The table shows their buckets.</Banner>}
      {!drawable.length && !histograms && <p class="muted">The answer is empty: no series matches, or none has samples in this range.</p>}
      {drawable.length > DRAWN_MAX && <Banner kind="info">The first {DRAWN_MAX} of {drawable.length} series are drawn. <code>topk</code> or an aggregation chooses better.</Banner>}
      {drawable.length > 0 && <Plot answer={{ ...answer, data: { ...data, result: drawable.slice(0, DRAWN_MAX) } }} mode={mode} onZoom={onZoom} />}
    </>
  );
}

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function useScheme() {
  const [, redraw] = useState(0);
  useEffect(() => {
    const query = matchMedia('(prefers-color-scheme: dark)');
    const change = () => redraw((n) => n + 1);
    query.addEventListener('change', change);
    return () => query.removeEventListener('change', change);
  }, []);
  return matchMedia('(prefers-color-scheme: dark)').matches;
}

function Plot({ answer, mode, onZoom }) {
  const box = useRef(null);
  const plot = useRef(null);
  const zoom = useRef(onZoom);
  zoom.current = onZoom;
  const dark = useScheme();
  const { result } = answer.data;
  const key = useMemo(() => result.map(({ metric }) => seriesText(metric)).join('\n'), [answer]);
  const [hidden, setHidden] = useState(new Set());
  const [hover, setHover] = useState({ index: null, near: null });
  useEffect(() => setHidden(new Set()), [key]);
  const shown = result.map((_, i) => !hidden.has(i));
  const lines = useMemo(() => columns(answer), [answer]);
  const drawn = useMemo(() => (mode === 'stacked' ? stacked(lines, shown) : lines), [lines, mode, hidden]);
  const exemplars = useMemo(() => exemplarPoints(answer), [answer]);
  const latest = useRef({});
  latest.current = { lines, exemplars };
  useEffect(() => {
    const place = box.current;
    const options = plotOptions({ width: place.clientWidth, mode, result, latest, onHover: setHover, onZoom: (from, to) => zoom.current(from, to) });
    const made = new uPlot(options, drawn, place);
    plot.current = made;
    const observer = new ResizeObserver(() => made.setSize({ width: place.clientWidth, height: HEIGHT }));
    observer.observe(place);
    return () => {
      observer.disconnect();
      made.destroy();
      plot.current = null;
    };
  }, [key, mode, dark]);
  useEffect(() => {
    const made = plot.current;
    made.batch(() => {
      shown.forEach((show, i) => made.series[i + 1].show !== show && made.setSeries(i + 1, { show }));
      if (mode === 'stacked') made.delBand(null);
      if (mode === 'stacked') stackBands(shown).forEach((band) => made.addBand(band));
      made.setData(drawn);
      made.setScale('x', { min: answer.start / 1000, max: answer.end / 1000 });
    });
  }, [drawn, hidden, key, mode, dark]);
  const pick = (i, several) => {
    if (several) {
      const next = new Set(hidden);
      if (!next.delete(i)) next.add(i);
      return setHidden(next);
    }
    const alone = !hidden.has(i) && hidden.size === result.length - 1;
    setHidden(alone ? new Set() : new Set(result.map((_, one) => one).filter((one) => one !== i)));
  };
  return (
    <div class="graph">
      <div class="plot">
        <div ref={box} />
        <Tip hover={hover} result={result} lines={lines} plot={plot.current} />
      </div>
      <Exemplars points={exemplars} />
      <Legend result={result} lines={lines} hover={hover} shown={shown} onPick={pick}
        onFocus={(i) => plot.current?.setSeries(i === null ? null : i + 1, { focus: true })} />
    </div>
  );
}

/** What the line under the pointer is. */
function Tip({ hover, result, lines, plot }) {
  const { index, near, left, top } = hover;
  const value = near === null || index === null ? null : lines[near + 1]?.[index];
  if (!plot || value === null || value === undefined) return null;
  const { offsetLeft: inset, offsetWidth: width } = plot.over;
  const place = left < width / 2 ? { left: `${inset + left + 14}px` } : { right: `${width - left + 26}px` };
  return (
    <div class="tip" style={{ ...place, top: `${Math.max(0, top - 14)}px` }}>
      <span class="swatch-dot" style={{ background: seriesColour(near) }} /> <strong>{legendNumber(value)}</strong> <span class="muted">{formatInstant(lines[0][index] * 1000)}</span>
      <div><Series labels={result[near].metric} /></div>
    </div>
  );
}

/** Pairs of neighbours that are shown: what lies between two lines is filled. */
function stackBands(shown) {
  const on = shown.flatMap((show, i) => (show ? [i + 1] : []));
  return on.slice(1).map((upper, i) => ({ series: [upper, on[i]] }));
}

function plotOptions({ width, mode, result, latest, onHover, onZoom }) {
  const grid = { stroke: css('--line'), width: 1 };
  const axis = { stroke: css('--muted'), grid, ticks: grid, font: `12px ${css('--sans')}` };
  const lone = (u, i) => {
    // A sample between two gaps has no line: draw it as a point.
    const column = u.data[i];
    return column.flatMap((value, place) => (value !== null && (column[place - 1] ?? null) === null && (column[place + 1] ?? null) === null ? [place] : []));
  };
  return {
    width,
    height: HEIGHT,
    tzDate: (seconds) => (utc() ? uPlot.tzDate(new Date(seconds * 1000), 'Etc/UTC') : new Date(seconds * 1000)),
    legend: { show: false },
    padding: [12, 12, 0, 0],
    cursor: { drag: { x: true, y: false, setScale: false }, focus: { prox: 24 }, points: { size: 7 } },
    focus: { alpha: 0.25 },
    scales: { x: { time: true }, y: { range: (_, low, high) => yRange(low, high, mode, latest.current.exemplars) } },
    axes: [
      { ...axis, values: TIMES },
      { ...axis, size: 64, values: (_, ticks) => ticks.map(axisNumber) },
    ],
    series: [
      {},
      ...result.map((_, i) => ({
        stroke: seriesColour(i),
        width: 1.5,
        fill: mode === 'stacked' ? `${seriesColour(i)}55` : undefined,
        points: { size: 5, fill: seriesColour(i), filter: lone, show: true },
      })),
    ],
    hooks: {
      setCursor: [({ cursor: { idx: index, left, top } }) => onHover((old) => (old.left === left && old.top === top && old.index === index ? old : { ...old, index, left, top }))],
      setSeries: [(u, i, change) => 'focus' in change && onHover((old) => ({ ...old, near: i === null ? null : i - 1 }))],
      setSelect: [(u) => {
        const { left, width: wide } = u.select;
        if (wide < 8) return;
        const at = (x) => Math.round(u.posToVal(x, 'x')) * 1000;
        u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
        if (at(left + wide) > at(left)) onZoom(at(left), at(left + wide));
      }],
      draw: [(u) => drawExemplars(u, latest.current.exemplars)],
    },
  };
}

/** 24 hours, and the date where it changes. */
const TIMES = [
  [86_400 * 28, '{YYYY}-{MM}', null, null, null, null, null, null, 1],
  [86_400, '{MM}-{DD}', '\n{YYYY}', null, null, null, null, null, 1],
  [60, '{HH}:{mm}', '\n{YYYY}-{MM}-{DD}', null, '\n{MM}-{DD}', null, null, null, 1],
  [1, '{HH}:{mm}:{ss}', '\n{YYYY}-{MM}-{DD}', null, '\n{MM}-{DD}', null, null, null, 1],
  [0.001, '{HH}:{mm}:{ss}.{fff}', '\n{YYYY}-{MM}-{DD}', null, '\n{MM}-{DD}', null, null, null, 1],
];

/** Room above and below, exemplars within; a stack begins at zero; a flat line lies in the middle. */
function yRange(lowest, highest, mode, exemplars) {
  if (lowest === null || highest === null) return [0, 1];
  const low = exemplars.reduce((least, { value }) => Math.min(least, value), lowest);
  const high = exemplars.reduce((most, { value }) => Math.max(most, value), highest);
  const bottom = mode === 'stacked' ? Math.min(0, low) : low;
  if (bottom === high) {
    const around = Math.abs(high) * 0.1 || 1;
    return [high === 0 ? -around : high - around, high + around];
  }
  return uPlot.rangeNum(bottom, high, 0.08, true);
}

function exemplarPoints({ exemplars }) {
  if (!Array.isArray(exemplars)) return [];
  return exemplars.flatMap(({ seriesLabels, exemplars: some }) =>
    some.map(({ labels, value, timestamp }) => ({ series: seriesLabels, labels, value: Number(value), at: timestamp })));
}

function drawExemplars(u, points) {
  if (!points.length) return;
  const { ctx } = u;
  const size = 4 * devicePixelRatio;
  ctx.save();
  ctx.fillStyle = css('--warn');
  for (const { at, value } of points) {
    const x = u.valToPos(at, 'x', true);
    const y = u.valToPos(value, 'y', true);
    if (!Number.isFinite(x) || !Number.isFinite(y) || y < u.bbox.top || y > u.bbox.top + u.bbox.height) continue;
    ctx.beginPath();
    ctx.moveTo(x, y - size);
    ctx.lineTo(x + size, y);
    ctx.lineTo(x, y + size);
    ctx.lineTo(x - size, y);
    ctx.fill();
  }
  ctx.restore();
}

const EXEMPLARS_LISTED = 20;

function Exemplars({ points }) {
  if (!points.length) return null;
  const newest = [...points].sort((a, b) => b.at - a.at).slice(0, EXEMPLARS_LISTED);
  return (
    <details class="exemplars">
      <summary class="muted">{count(points.length, 'exemplar')}, drawn as diamonds where they lie within the graph</summary>
      {newest.map((one, i) => (
        <div key={i} class="mono">{formatInstant(one.at * 1000, { millis: true })} {legendNumber(one.value)} <Series labels={one.labels} /> <span class="muted">of <Series labels={one.series} /></span></div>
      ))}
    </details>
  );
}

function Legend({ result, lines, hover, shown, onPick, onFocus }) {
  const [all, setAll] = useState(false);
  const last = lines[0].length - 1;
  const at = hover.index ?? last;
  const valueOf = (i) => (hover.index === null ? lines[i + 1].findLast((value) => value !== null) : lines[i + 1][at]);
  const order = result.map((_, i) => i);
  const few = all ? order : order.slice(0, LEGEND_MAX);
  const listed = hover.near !== null && !few.includes(hover.near) ? [hover.near, ...few] : few;
  return (
    <div class="legend" onMouseLeave={() => onFocus(null)}>
      <div class="legend-head muted">
        <span>{hover.index === null ? 'Last values' : `At ${formatInstant(lines[0][at] * 1000)}`}</span>
        {result.length > 1 && <span class="right">click: only this one · ctrl click: add or remove</span>}
      </div>
      {listed.map((i) => (
        <button type="button" key={i} class={`legend-row${shown[i] ? '' : ' off'}${hover.near === i ? ' near' : ''}`} aria-pressed={shown[i]}
          onClick={(event) => onPick(i, event.ctrlKey || event.metaKey || event.shiftKey)} onMouseEnter={() => shown[i] && onFocus(i)}>
          <span class="swatch" style={{ background: seriesColour(i) }} />
          <Series labels={result[i].metric} />
          <span class="legend-value mono">{legendNumber(valueOf(i))}</span>
        </button>
      ))}
      {listed.length < result.length && <button type="button" class="small" onClick={() => setAll(true)}>All {result.length} series</button>}
    </div>
  );
}
