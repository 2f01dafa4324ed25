// What the peer said beside the data: errors, warnings, infos, what the query cost.
import { Banner, count } from '../lib/parts.jsx';
import { shortSeconds } from '../lib/time.js';

const KINDS = { bad_data: 'The expression cannot be run', execution: 'The query failed', canceled: 'The query was cancelled', timeout: 'The query took too long', unavailable: 'Not now' };

/** A parse error begins with where it is: show the place. */
export function Failure({ error, expr }) {
  const place = /(?:^|\s)(\d+):(\d+): parse error: /.exec(error.message);
  const line = place && expr.split('\n')[Number(place[1]) - 1];
  return (
    <Banner kind={error.starting ? 'info' : 'bad'} title={error.starting ? undefined : `${KINDS[error.type] ?? 'No answer'}.`}>
      {error.message}
      {line !== undefined && line !== null && <pre class="place">{line}{'\n'}{' '.repeat(Math.max(0, Number(place[2]) - 1))}^</pre>}
    </Banner>
  );
}

export function Remarks({ answer }) {
  const { warnings, infos, exemplars } = answer;
  return (
    <>
      {warnings.map((text) => <Banner key={text} kind="warn">{text}</Banner>)}
      {infos.map((text) => <Banner key={text} kind="info">{text}</Banner>)}
      {exemplars?.error && <Banner kind="warn" title="No exemplars:">{exemplars.error.message}</Banner>}
    </>
  );
}

const shown = ({ data }) => (data.resultType === 'scalar' || data.resultType === 'string' ? 1 : data.result.length);

export function Stats({ answer }) {
  const { stats, result } = answer.data;
  const points = answer.tab === 'graph' ? result.reduce((sum, one) => sum + (one.values?.length ?? 0) + (one.histograms?.length ?? 0), 0) : null;
  const timings = Object.entries(stats?.timings ?? {}).map(([name, value]) => `${name} ${shortSeconds(value)}`).join('\n');
  const samples = stats?.samples;
  return (
    <span class="muted right stats">
      {count(shown(answer), 'series', 'series')}
      {points !== null && `, ${count(points, 'point')}`}
      {samples && <span title={`At most ${samples.peakSamples.toLocaleString('en')} at once`}> · {count(samples.totalQueryableSamples, 'sample')} read</span>}
      <span title={timings || undefined}> · {stats?.timings ? `${shortSeconds(stats.timings.execTotalTime ?? 0)} in the peer, ` : ''}{shortSeconds(answer.took / 1000)} in all</span>
    </span>
  );
}
