// What can be said about the pages without a browser: `npm test`.
import assert from 'node:assert/strict';
import test from 'node:test';
import { formatMatchers, parseMatchers } from './lib/matchers.js';
import { verdict } from './lib/mesh.js';
import { coarse, formatInstant, formatSpan, parseInstant, parseSpan, shortSeconds } from './lib/time.js';
import { takeApart } from './query/editor.js';
import { effectiveStep, readPanels, writePanels } from './query/params.js';
import { axisNumber, columns, stacked } from './query/points.js';

test('spans are read and written as Prometheus does', () => {
  const check = (text, ms) => assert.equal(parseSpan(text), ms, text);
  check('1h30m', 5_400_000);
  check('1d', 86_400_000);
  check('90', 90_000);
  check('5m5ms', 300_005);
  for (const bad of ['', 'h', '1x', '30m1h', '-5m']) check(bad, null);
  for (const text of ['1h30m', '2w', '1y', '15s', '4m52s', '250ms', '0s']) assert.equal(formatSpan(parseSpan(text)), text);
});

test('instants are read in the clock they are shown in', () => {
  assert.equal(parseInstant('2026-11-25 03:12'), Date.UTC(2026, 10, 25, 3, 12));
  assert.equal(parseInstant('2026-11-25T03:12:09.5Z'), Date.UTC(2026, 10, 25, 3, 12, 9, 500));
  assert.equal(formatInstant(Date.UTC(2026, 10, 25, 3, 12, 9)), '2026-11-25 03:12:09');
  for (const bad of ['', 'now', '25.11.2026', '2026-11-25 3']) assert.equal(parseInstant(bad), null, bad);
});

test('figures of time fit a cell', () => {
  assert.deepEqual([0, 0.00034, 0.0123, 2.5, 200].map(shortSeconds), ['0s', '340µs', '12.3ms', '2.5s', '3m 20s']);
  assert.deepEqual([59_000, 3_660_000, 90_000_000].map(coarse), ['59s', '1h 1m', '1d 1h']);
});

test('old links of Prometheus mean the same', () => {
  const [first, second, ...rest] = readPanels('?g0.expr=up%20%3D%3D%200&g0.tab=1&g1.expr=x&g1.tab=0&g1.range_input=2h&g1.stacked=1&g1.step_input=30&g1.end_input=2026-11-25%2003%3A12');
  assert.deepEqual(rest, []);
  assert.deepEqual([first.expr, first.tab, first.endMs], ['up == 0', 'table', null]);
  assert.deepEqual([second.tab, second.rangeMs, second.mode, second.stepMs, second.endMs], ['graph', 7_200_000, 'stacked', 30_000, Date.UTC(2026, 10, 25, 3, 12)]);
});

test('an address comes back as the panels it was made of', () => {
  const panels = readPanels('?g0.expr=a&g0.tab=graph&g0.range_input=30m&g0.res_type=auto&g0.res_density=high&g0.display_mode=stacked&g0.show_exemplars=1&g1.expr=b&g1.tab=table');
  const again = readPanels(writePanels(panels));
  const plain = (list) => list.map(({ id, ...panel }) => panel);
  assert.deepEqual(plain(again), plain(panels));
  assert.equal(effectiveStep(panels[0]), 2000);
  assert.equal(effectiveStep({ rangeMs: 60_000, stepMs: null, density: 'high' }), 1000);
});

test('an expression is taken apart into what can be asked', () => {
  const check = (expr, expected) => assert.deepEqual(takeApart(expr).map(({ depth, kind, text }) => `${depth} ${kind} ${text}`), expected);
  check('sum(rate(x[5m])) > 2', ['0 operation sum(rate(x[5m])) > 2', '1 aggregation sum(rate(x[5m]))', '2 function rate(x[5m])', '3 range x[5m]']);
  check('max_over_time(up[5m:1m] offset 1m)', ['0 function max_over_time(up[5m:1m] offset 1m)', '1 subquery up[5m:1m] offset 1m']);
  check('(a + b) * -c', ['0 operation (a + b) * -c', '1 operation a + b', '2 series a', '2 series b', '1 operation -c', '2 series c']);
  check('rate(x[5m] @ 100)', ['0 function rate(x[5m] @ 100)', '1 range x[5m] @ 100']);
  check('1 + 2', ['0 operation 1 + 2']);
  check('', []);
});

test('matchers are read and written as Alertmanager does', () => {
  const check = (text, expected) => assert.equal(parseMatchers(text) && formatMatchers(parseMatchers(text)), expected, text);
  check('{alertname="Down",instance=~"db.*"}', 'alertname="Down", instance=~"db.*"');
  check('a!="x", b !~ y ', 'a!="x", b!~"y"');
  check('{a="with \\"quotes\\", commas, {braces}"}', 'a="with \\"quotes\\", commas, {braces}"');
  check('"a name"="x"', '"a name"="x"');
  check('', '');
  check('a=', 'a=""');
  for (const bad of ['a', '=b', 'a="x" b="y"', 'a=="x"']) check(bad, null);
});

test('samples lie on their step, and gaps stay gaps', () => {
  const data = { result: [{ values: [[0, '1'], [20, '3']] }, { values: [[10, '5'], [20, 'NaN'], [30, '+Inf']] }] };
  const lines = columns({ data, start: 0, end: 30_000, step: 10_000 });
  assert.deepEqual(lines, [[0, 10, 20, 30], [1, null, 3, null], [null, 5, null, null]]);
  assert.deepEqual(stacked(lines, [true, true]), [[0, 10, 20, 30], [1, 0, 3, 0], [1, 5, 3, 0]]);
  assert.deepEqual(stacked(lines, [false, true])[2], [0, 5, 0, 0]);
  assert.deepEqual([0, 0.25, 1500, 2.5e9, 0.0000012].map(axisNumber), ['0', '0.25', '1.5k', '2.5G', '1.2e-6']);
});

test('the mesh is judged as an operator would', () => {
  const member = (id, state, more) => ({ id, name: id, state, ...more });
  const mesh = (members, more) => ({ members, replicationFactor: 2, shards: { total: 16_384, underReplicated: 0, unowned: 0 }, ...more });
  const check = (cluster, kind, pattern) => {
    const found = verdict(cluster);
    assert.equal(found.kind, kind);
    assert.match(found.sentences.map(([, text]) => text).join(' '), pattern);
  };
  check(mesh([member('a', 'ready')]), 'ok', /alone and ready/);
  check(mesh([member('a', 'ready'), member('b', 'ready')]), 'ok', /All 2 peers are ready, every shard has an owner and 2 copies/);
  check(mesh([member('a', 'ready'), member('b', 'unreachable'), member('c', 'down')]), 'bad', /b is unreachable: TCP .*\. c is down\. .*1 copy/);
  check(mesh([member('a', 'ready'), member('b', 'suspect')]), 'warn', /b is suspect/);
  check(mesh([member('a', 'ready')], { shards: { total: 16_384, underReplicated: 5, unowned: 3 } }), 'bad', /3 shards have no owner.*5 of 16,384 shards have fewer copies/);
  check(mesh([member('a', 'ready'), member('b', 'ready', { configDiffers: ['job node'] })]), 'warn', /b runs another configuration/);
});
