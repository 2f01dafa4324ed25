// What /api/v1/cluster says, judged: the one sentence that somebody needs at three in the morning.

const BAD = new Set(['unreachable', 'down']);
const GOOD = new Set(['ready']);
const GONE = new Set(['down', 'left']);

/** What a state means for whoever has to do something about it. */
export const MEANINGS = {
  joining: 'looking for the others',
  syncing: 'copying what it should hold; it owns nothing until then',
  leaving: 'giving its shards away',
  skewed: 'its clock is off from the others\', so it owns and sends nothing until it is right',
  full: 'its disk is full, so it answers and owns nothing new',
  left: 'it was stopped, and gave its shards away first',
  suspect: 'it has not been heard for a moment',
  unreachable: 'TCP to it works and UDP does not; look at firewalls and at --cluster.advertise-address',
};

/** `ok`, `warn` or `bad` for a member's state. */
export function stateKind(state) {
  return GOOD.has(state) ? 'ok' : BAD.has(state) ? 'bad' : 'warn';
}

/** Whether what a member last said of itself counts no more. */
export const isGone = (member) => GONE.has(member.state);

/** Pairs of a key and what has it, in order of first sight. */
export function groupBy(items, key) {
  const groups = new Map();
  for (const item of items) groups.set(key(item), [...(groups.get(key(item)) ?? []), item]);
  return [...groups];
}

export const nameOf = (member) => member.name || member.webAddress || member.address || member.id.slice(0, 8);

/** A name no other member has: the host's, with the port where several share a host. */
export function memberNames(members) {
  const seen = new Map();
  for (const member of members) seen.set(nameOf(member), (seen.get(nameOf(member)) ?? 0) + 1);
  return new Map(
    members.map((member) => {
      const name = nameOf(member);
      const port = /:(\d+)$/.exec(member.webAddress || member.address || '')?.[1];
      return [member.id, seen.get(name) > 1 && port ? `${name}:${port}` : name];
    }),
  );
}

/** How the mesh is: a kind, a word for the head of the page, sentences for the cluster page. */
export function verdict(cluster) {
  const members = cluster.members ?? [];
  const names = memberNames(members);
  const ready = members.filter(({ state }) => GOOD.has(state));
  const bad = members.filter(({ state }) => BAD.has(state));
  const odd = members.filter(({ state }) => !GOOD.has(state) && !BAD.has(state));
  const shards = cluster.shards ?? {};
  const sentences = [];
  const list = (some) => some.map((member) => names.get(member.id)).join(', ');
  const byState = (some) => groupBy(some, ({ state }) => state);
  const say = (state, some) => `${list(some)} ${some.length === 1 ? 'is' : 'are'} ${state}${MEANINGS[state] ? `: ${MEANINGS[state]}` : ''}.`;
  for (const [state, some] of byState(bad)) sentences.push(['bad', say(state, some)]);
  for (const [state, some] of byState(odd)) sentences.push(['warn', say(state, some)]);
  if (cluster.split) sentences.push(['bad', 'The mesh is split: this side does not see a majority.']);
  if (shards.unowned) sentences.push(['bad', `${shards.unowned.toLocaleString('en')} shards have no owner: their targets are not scraped.`]);
  if (cluster.targets?.unscraped) sentences.push(['bad', `${cluster.targets.unscraped} targets are not scraped.`]);
  const wanted = cluster.replicationFactor ?? 0;
  const copies = Math.min(wanted, members.length);
  if (shards.underReplicated) {
    sentences.push(['warn', `${shards.underReplicated.toLocaleString('en')} of ${shards.total.toLocaleString('en')} shards have fewer copies than they should.`]);
  }
  if (members.length > 1 && members.length < wanted) sentences.push(['warn', `${wanted} copies are wanted and ${members.length} peers are there.`]);
  const differing = members.filter(({ configDiffers }) => configDiffers?.length);
  if (differing.length) sentences.push(['warn', `${list(differing)} ${differing.length === 1 ? 'runs another' : 'run other'} configuration than the majority.`]);
  if (!members.length) sentences.push(['warn', 'This peer has not found its place in the mesh yet.']);
  const kind = sentences.some(([one]) => one === 'bad') ? 'bad' : sentences.length ? 'warn' : 'ok';
  if (bad.length && ready.length && !shards.unowned && !shards.underReplicated) {
    sentences.push(['info', `The others do ${bad.length === 1 ? 'its' : 'their'} work: every shard has an owner and ${Math.min(wanted, ready.length)} ${Math.min(wanted, ready.length) === 1 ? 'copy' : 'copies'}.`]);
  }
  if (kind === 'ok') {
    const who = members.length === 1 ? 'This peer is alone and ready' : `All ${members.length} peers are ready`;
    sentences.push(['ok', `${who}, every shard has an owner${members.length > 1 ? ` and ${copies} ${copies === 1 ? 'copy' : 'copies'}` : ''}.`]);
  }
  return { kind, short: !members.length ? 'starting' : members.length === 1 ? 'one peer' : `${ready.length}/${members.length} ready`, sentences };
}
