// Bundles the pages into ../dist and records what they were built from. Run by `npm ci && npm run build` in this folder;
// `cargo build` never does. What it writes is committed, and a test of the crate compares the digest with the sources.
import { build } from 'esbuild';
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { basename, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

const web = fileURLToPath(new URL('.', import.meta.url));
const dist = join(web, '../dist');

/** Every source, by its path with slashes, in byte order. */
function sources(folder = web) {
  return readdirSync(folder)
    .filter((name) => name !== 'node_modules')
    .flatMap((name) => {
      const path = join(folder, name);
      return statSync(path).isDirectory() ? sources(path) : [relative(web, path).replaceAll('\\', '/')];
    })
    .sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
}

/** SHA-256 over each source's name, a zero byte, its length in decimal, a zero byte, its bytes. */
function digest() {
  const hash = createHash('sha256');
  for (const name of sources()) {
    const bytes = readFileSync(join(web, name));
    hash.update(`${name}\0${bytes.length}\0`).update(bytes);
  }
  return hash.digest('hex');
}

/** The licences of what is in the bundle, one after the other. */
function licences(metafile) {
  const packages = new Set();
  for (const input of Object.keys(metafile.inputs)) {
    const found = /node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(input);
    if (found) packages.add(found[1]);
  }
  const texts = [...packages].sort().map((name) => {
    const folder = join(web, 'node_modules', name);
    const { version, license } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
    const file = readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry));
    const text = file ? readFileSync(join(folder, file), 'utf8').trim() : `Licence: ${license}`;
    return `${name} ${version} (${license})\n\n${text}\n`;
  });
  return `The pages contain the following packages.\n\n${texts.join(`\n${'-'.repeat(78)}\n\n`)}`;
}

const built = await build({
  absWorkingDir: web,
  entryPoints: ['app.jsx', 'style.css'],
  entryNames: '[name]-[hash]',
  chunkNames: '[name]-[hash]',
  outdir: dist,
  bundle: true,
  splitting: true,
  alias: { 'lru-cache': join(web, 'lib/forget.js') },
  format: 'esm',
  target: 'es2022',
  minify: true,
  legalComments: 'none',
  jsx: 'automatic',
  jsxImportSource: 'preact',
  metafile: true,
  write: false,
  logLevel: 'warning',
});

rmSync(dist, { recursive: true, force: true });
mkdirSync(dist, { recursive: true });
const files = built.outputFiles.map(({ path, contents }) => [basename(path), contents]);
const named = (prefix, ending, text) => {
  const hash = createHash('sha256').update(text).digest('hex').slice(0, 8).toUpperCase();
  files.push([`${prefix}-${hash}${ending}`, text]);
};
named('licences', '.txt', licences(built.metafile));
named('mark', '.svg', readFileSync(join(web, 'mark.svg'), 'utf8'));
files.sort(([a], [b]) => (a < b ? -1 : 1));
for (const [name, contents] of files) writeFileSync(join(dist, name), contents);

const find = (start, ending) => files.find(([name]) => name.startsWith(start) && name.endsWith(ending))[0];
const page = readFileSync(join(web, 'index.html'), 'utf8')
  .replaceAll('{{app}}', find('app-', '.js'))
  .replaceAll('{{style}}', find('style-', '.css'))
  .replaceAll('{{mark}}', find('mark-', '.svg'))
  .replaceAll('{{licences}}', find('licences-', '.txt'));
writeFileSync(join(dist, 'index.html'), page);
writeFileSync(join(dist, 'sources.sha256'), `${digest()}\n`);
const entries = files.map(([name]) => `    (${JSON.stringify(name)}, include_bytes!(${JSON.stringify(name)})),\n`);
writeFileSync(
  join(dist, 'assets.rs'),
  `// Written by web/build.mjs. Names carry a hash of what is in them.\n&[\n${entries.join('')}]\n`,
);
const total = files.reduce((sum, [, contents]) => sum + contents.length, 0);
console.log(`${files.length} files, ${(total / 1024).toFixed(0)} KiB`);
