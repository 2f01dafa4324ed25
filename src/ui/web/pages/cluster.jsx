// Who is in the mesh, who owns and holds what, what changed last.
import { ask, usePolled } from '../lib/api.js';
import { MEANINGS, isGone, memberNames, stateKind, verdict } from '../lib/mesh.js';
import { Ago, Banner, bytes, Figures, Loaded, State } from '../lib/parts.jsx';
import { Table } from '../lib/table.jsx';
import { coarse, formatInstant, instant, shortSeconds } from '../lib/time.js';

const number = (value) => (value ?? 0).toLocaleString('en');
const LAG_WARN_S = 30;
const CLOCK_WARN_S = 0.5;

export function Cluster() {
  const polled = usePolled(async (signal) => (await ask('api/v1/cluster', { signal })).data, { every: 3000 });
  return (
    <>
      <h1>Cluster</h1>
      <Loaded polled={polled}>{(cluster) => <Shown cluster={cluster} />}</Loaded>
    </>
  );
}

function Shown({ cluster }) {
  const members = cluster.members ?? [];
  const names = memberNames(members);
  const { sentences } = verdict(cluster);
  const { shards = {}, targets = {}, copies = {} } = cluster;
  const copying = copies.bytesLeft || copies.windowsLeft || copies.shardsLeft;
  return (
    <>
      {sentences.map(([kind, text]) => <Banner key={text} kind={kind}>{text}</Banner>)}
      <Figures items={[
        ['Cluster', cluster.cluster || 'off'],
        ['Peers', members.length],
        ['Copies wanted', cluster.replicationFactor ?? '–', '', '--cluster.replication-factor, the majority\'s'],
        ['Shards', number(shards.total)],
        ['Under-replicated', number(shards.underReplicated), shards.underReplicated ? 'warn' : '', 'Shards with fewer copies than there should be'],
        ['Without owner', number(shards.unowned), shards.unowned ? 'bad' : '', 'Shards whose targets nobody scrapes'],
        ['Targets', number(targets.total)],
        targets.unscraped !== undefined && ['Not scraped', number(targets.unscraped), targets.unscraped ? 'bad' : ''],
        ['Split slots', number(cluster.splitSlots), '', 'Slots that two peers scraped: the better ranked one\'s batch stands'],
        cluster.conflicts !== undefined && ['Conflicts', number(cluster.conflicts), cluster.conflicts ? 'warn' : '', 'Samples of one instant with two values'],
        ['View', cluster.view ?? '–', '', 'How often this peer\'s picture of the mesh has changed'],
      ]} />
      {copying ? <Banner kind="info">{copyText(copies)}</Banner> : null}
      <h2>Members</h2>
      <Members members={members} self={cluster.self} names={names} total={shards.total} />
      {members.filter(({ state }) => state === 'down').slice(0, 3).map(({ id }) => (
        <p class="muted" key={id}>If {names.get(id)} will not come back, have all peers forget it: <code>promesh cluster remove {id}</code></p>
      ))}
      <Differences members={members} names={names} contests={cluster.configContests} />
      <h2>Last changes, as this peer saw them</h2>
      <Changes changes={cluster.lastChanges ?? []} names={names} />
    </>
  );
}

function copyText({ bytesLeft, windowsLeft, shardsLeft, etaSeconds }) {
  const left = [bytesLeft && bytes(bytesLeft), windowsLeft && `${windowsLeft} ${windowsLeft === 1 ? 'window' : 'windows'}`, shardsLeft && `${number(shardsLeft)} shards`];
  return `Copying what this peer should hold: ${left.filter(Boolean).join(', ')} left${etaSeconds ? `, about ${coarse(etaSeconds * 1000)}` : ''}.`;
}

/** A bar for a share of the shards: equal peers have equal bars. */
function Share({ part, total, title }) {
  const percent = total ? (100 * part) / total : 0;
  return (
    <span class="share" title={title}>
      <span class="share-bar"><span style={{ width: `${percent}%` }} /></span>
      <span class="share-count">{number(part)}</span>
    </span>
  );
}

function Members({ members, self, names, total }) {
  const zones = members.some(({ zone }) => zone);
  const unknown = (m) => m.id === self || isGone(m);
  const mark = (value, over, text) => <span class={value > over ? 'over' : ''}>{text}</span>;
  const columns = [
    { name: 'Peer', key: (m) => names.get(m.id), cell: (m) => <><PeerLink member={m} name={names.get(m.id)} self={self} /><span class="sub mono" title="The peer's identity, kept in its data directory">{m.id.slice(0, 8)}</span></> },
    { name: 'State', key: (m) => m.state, cell: (m) => <><span title={MEANINGS[m.state]}><State kind={stateKind(m.state)}>{m.state}</State></span>{m.elector && <span class="tag" title="Votes on who sends notifications">elector</span>}</> },
    { name: 'Since', key: (m) => instant(m.since) ?? 0, cell: (m) => <Ago ms={instant(m.since)} /> },
    zones && { name: 'Zone', key: (m) => m.zone, cell: (m) => m.zone || '–' },
    { name: 'Shards owned', kind: 'number', key: (m) => m.shardsOwned, cell: (m) => isGone(m) ? '–' : <Share part={m.shardsOwned} total={total} title="Shards whose targets it scrapes" /> },
    { name: 'Held', kind: 'number', key: (m) => m.shardsHeld, cell: (m) => isGone(m) ? '–' : <Share part={m.shardsHeld} total={total} title="Shards it holds whole, for the open window" /> },
    { name: 'Targets', kind: 'number', key: (m) => m.targetsOwned, cell: (m) => (isGone(m) ? '–' : number(m.targetsOwned)) },
    { name: 'Series', kind: 'number', key: (m) => m.series, cell: (m) => (isGone(m) ? '–' : number(m.series)) },
    { name: 'Lag', kind: 'number', key: (m) => m.replicationLagSeconds, cell: (m) => (unknown(m) ? '–' : mark(m.replicationLagSeconds, LAG_WARN_S, shortSeconds(m.replicationLagSeconds))) },
    { name: 'Round trip', kind: 'number', key: (m) => m.rttSeconds, cell: (m) => (m.rttSeconds == null ? '–' : shortSeconds(m.rttSeconds)) },
    { name: 'Clock', kind: 'number', key: (m) => Math.abs(m.clockOffsetSeconds), cell: (m) => (unknown(m) || m.clockOffsetSeconds == null ? '–' : mark(Math.abs(m.clockOffsetSeconds), CLOCK_WARN_S, `${m.clockOffsetSeconds > 0 ? '+' : ''}${shortSeconds(m.clockOffsetSeconds)}`)) },
    { name: 'Version', key: (m) => m.version, cell: (m) => m.version || '–' },
    { name: 'Address', key: (m) => m.address, cell: (m) => <span class="mono">{m.address || '–'}</span> },
  ].filter(Boolean);
  return <Table columns={columns} rows={members} param="sort" rowKey={(m) => m.id} rowClass={(m) => `row-${stateKind(m.state)}`} />;
}

export function PeerLink({ member, name, self }) {
  const here = member.id === self;
  if (here || !member.webAddress || isGone(member)) return <span class="peer">{name}{here && <span class="tag">this one</span>}</span>;
  return <a class="peer" href={`${location.protocol}//${member.webAddress}${location.pathname}`} title={`The same page of ${member.webAddress}`}>{name}</a>;
}

/** Which piece, what the mesh runs, and who has something else. Without contests: what each peer says of itself. */
function Differences({ members, names, contests }) {
  const rows = contests ?? members.flatMap(({ id, configDiffers }) => (configDiffers ?? []).map((piece) => ({ piece, differentOn: [id] })));
  if (!rows.length) return null;
  const list = (ids) => (ids ?? []).map((id) => names.get(id) ?? id.slice(0, 8)).join(', ');
  const votes = ({ present, votes: n }) => (n === undefined ? 'what most have' : `${present === false ? 'nothing of it' : 'one version'}, by ${n} ${n === 1 ? 'vote' : 'votes'}`);
  return (
    <>
      <h2>Configuration differences</h2>
      <p class="muted">The mesh runs what most ready peers have. The others leave these pieces to them, hold copies and answer.</p>
      <Table rows={rows} columns={[
        { name: 'Piece', kind: 'wide', cell: ({ piece }) => <span class="mono">{piece}</span> },
        { name: 'The mesh runs', cell: votes },
        { name: 'Different on', cell: ({ differentOn }) => list(differentOn) },
        { name: 'Absent on', cell: ({ absentOn }) => list(absentOn) },
      ]} />
    </>
  );
}

/** What happened, in words: `who` is the other peer, or this one where it is about this one. */
const HAPPENED = {
  takeover: () => 'took over shards',
  handover: (who) => `handed shards over to ${who}`,
  yield: (who) => `yielded shards to ${who}`,
  copied: () => 'holds shards whole',
  up: (who) => `${who} came up`,
  down: (who) => `${who} went down`,
  removed: (who) => `${who} was forgotten`,
  suspended: () => 'stood still for a while',
  state: (_, reason) => `became ${reason}`,
};
/** Reasons that say no more than what happened. */
const PLAIN = new Set(['membership', 'held again', 'this peer stood still']);

function Changes({ changes, names }) {
  const who = (id) => names.get(id) ?? id?.slice(0, 8) ?? '';
  const why = ({ what, reason }) => (what === 'state' || PLAIN.has(reason) ? '' : reason);
  return (
    <Table rows={changes} empty="Nothing has changed since this peer started." columns={[
      { name: 'When', cell: (c) => <><Ago ms={instant(c.at)} /><span class="sub">{formatInstant(instant(c.at))}</span></> },
      { name: 'What', kind: 'wide', cell: (c) => <span title={c.peer}>{HAPPENED[c.what]?.(who(c.peer), c.reason) ?? `${c.what} ${who(c.peer)}`}</span> },
      { name: 'Shards', kind: 'number', cell: (c) => (c.shards ? number(c.shards) : '') },
      { name: 'Why', cell: why },
    ]} />
  );
}
