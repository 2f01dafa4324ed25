// A range query's answer as the columns that uPlot draws: one of instants, one for each series, with nulls for gaps.

/** The grid a range query was evaluated on, in seconds; samples are put on their step. */
export function columns({ data, start, end, step }) {
  const steps = Math.floor((end - start) / step) + 1;
  const at = Array.from({ length: steps }, (_, i) => (start + i * step) / 1000);
  const place = (seconds) => Math.round((seconds * 1000 - start) / step);
  const series = data.result.map(({ values = [] }) => {
    const column = new Array(steps).fill(null);
    for (const [seconds, text] of values) {
      const value = Number(text);
      // Infinities have no place on an axis; NaN is a gap.
      if (Number.isFinite(value)) column[place(seconds)] = value;
    }
    return column;
  });
  return [at, ...series];
}

/** Each series on top of those before it that are shown; gaps count as nothing. */
export function stacked([at, ...series], shown) {
  const sums = new Array(at.length).fill(0);
  return [at, ...series.map((column, i) => {
    if (!shown[i]) return column.map(() => null);
    return column.map((value, place) => (sums[place] += value ?? 0));
  })];
}

const PREFIXES = [[1e15, 'P'], [1e12, 'T'], [1e9, 'G'], [1e6, 'M'], [1e3, 'k']];

/** A figure short enough for an axis. */
export function axisNumber(value) {
  const size = Math.abs(value);
  for (const [factor, prefix] of PREFIXES) {
    if (size >= factor) return `${trim(value / factor)}${prefix}`;
  }
  if (size === 0) return '0';
  if (size >= 1e-3) return trim(value);
  return value.toExponential(1);
}

const trim = (value) => String(Number(value.toPrecision(4)));

/** A figure for the legend: all the digits that matter. */
export const legendNumber = (value) => {
  if (value === null || value === undefined) return '–';
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-4 || size >= 1e15)) return value.toExponential(3);
  return value.toLocaleString('en', { maximumSignificantDigits: 6 });
};
