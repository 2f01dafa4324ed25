// Silences: which hold, which will, which are over.
import { useState } from 'preact/hooks';
import { askAlertmanager, usePolled } from '../lib/api.js';
import { Ago, Banner, Choice, found, Loaded, Search } from '../lib/parts.jsx';
import { formatMatcher } from '../lib/matchers.js';
import { Table } from '../lib/table.jsx';
import { ago, formatInstant, instant } from '../lib/time.js';


export function Silences({ only }) {
  const polled = usePolled((signal) => askAlertmanager('silences', { signal }), { every: 10_000 });
  return <Loaded polled={polled}>{(silences) => <List silences={silences} only={only} refresh={polled.refresh} />}</Loaded>;
}

function List({ silences, only, refresh }) {
  const chosen = only && silences.find(({ id }) => id === only);
  const [state, setState] = useState(chosen ? chosen.status.state : 'active');
  const [search, setSearch] = useState(only ?? '');
  const [failure, setFailure] = useState(null);
  const of = (which) => silences.filter(({ status }) => status.state === which);
  const text = (silence) => `${silence.id} ${silence.matchers.map(formatMatcher).join(', ')} ${silence.createdBy} ${silence.comment}`;
  const expire = async (id) => {
    try {
      await askAlertmanager(`silence/${encodeURIComponent(id)}`, { method: 'DELETE' });
      setFailure(null);
    } catch (error) {
      setFailure(error);
    }
    refresh();
  };
  const order = (a, b) => (state === 'expired' ? instant(b.endsAt) - instant(a.endsAt) : instant(a.endsAt) - instant(b.endsAt));
  const rows = of(state).filter((silence) => found(search, text(silence))).sort(order);
  return (
    <>
      <div class="bar">
        <Choice label="State" value={state} onChange={setState} options={['active', 'pending', 'expired'].map((one) => [one, one, of(one).length])} />
        <Search value={search} onChange={setSearch} label="Matcher, author, comment…" />
        <a class="button" href="#/silences/new">New silence</a>
      </div>
      {failure && <Banner kind="bad" title="Not expired:">{failure.message}</Banner>}
      <Table rows={rows} rowKey={({ id }) => id} empty={state === 'active' ? 'Nothing is silenced.' : `No ${state} silences.`} columns={[
        { name: 'Alerts that match', kind: 'wide', key: (s) => s.matchers.map(formatMatcher).join(), cell: (s) => <Matchers silence={s} /> },
        { name: state === 'expired' ? 'Ended' : 'Ends', key: (s) => instant(s.endsAt), cell: (s) => <><Ago ms={instant(s.endsAt)} /><span class="sub">{formatInstant(instant(s.endsAt), { seconds: false })}</span></> },
        state === 'pending' && { name: 'Begins', key: (s) => instant(s.startsAt), cell: (s) => <><Ago ms={instant(s.startsAt)} /><span class="sub">{formatInstant(instant(s.startsAt), { seconds: false })}</span></> },
        { name: 'By', key: (s) => s.createdBy, cell: (s) => <>{s.createdBy}<span class="sub" title={ago(instant(s.updatedAt))}>{s.id.slice(0, 8)}</span></> },
        { name: 'Why', kind: 'wide', key: (s) => s.comment, cell: (s) => s.comment },
        { name: '', cell: (s) => <Acts silence={s} state={state} onExpire={() => expire(s.id)} /> },
      ].filter(Boolean)} />
    </>
  );
}

function Matchers({ silence }) {
  const filter = `{${silence.matchers.map(formatMatcher).join(',')}}`;
  return (
    <a href={`#/alerts?silenced=true&filter=${encodeURIComponent(filter)}`} title="Alerts that match" class="labels">
      {silence.matchers.map((matcher) => <span class="label" key={formatMatcher(matcher)}>{formatMatcher(matcher)}</span>)}
    </a>
  );
}

function Acts({ silence, state, onExpire }) {
  const [sure, setSure] = useState(false);
  const edit = <a class="small" href={`#/silences/${silence.id}/edit`}>{state === 'expired' ? 'Again' : 'Edit'}</a>;
  if (state === 'expired') return edit;
  return (
    <span class="acts">
      {edit}
      {sure
        ? <button type="button" class="small danger" onClick={onExpire} onBlur={() => setSure(false)}>Really end it</button>
        : <button type="button" class="small" onClick={() => setSure(true)}>Expire</button>}
    </span>
  );
}

