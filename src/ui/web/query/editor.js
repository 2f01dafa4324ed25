// The expression's editor: colours, completion from this peer, what is wrong underlined. Its own chunk; a plain text
// field stands in its place until it is here. It lives in a shadow root because CodeMirror adopts style sheets there,
// where in a document it would need inline styles that the content security policy does not allow.
import { autocompletion, closeBrackets, closeBracketsKeymap, completionKeymap } from '@codemirror/autocomplete';
import { defaultKeymap, history, historyKeymap, insertNewlineAndIndent } from '@codemirror/commands';
import { bracketMatching, HighlightStyle, indentOnInput, syntaxHighlighting } from '@codemirror/language';
import { lintKeymap } from '@codemirror/lint';
import { EditorState, Prec } from '@codemirror/state';
import { EditorView, keymap, placeholder } from '@codemirror/view';
import { tags } from '@lezer/highlight';
import { PromQLExtension } from '@prometheus-io/codemirror-promql';
import { parser } from '@prometheus-io/lezer-promql';

const colours = HighlightStyle.define([
  { tag: tags.number, color: 'var(--code-number)' },
  { tag: tags.string, color: 'var(--code-string)' },
  { tag: [tags.keyword, tags.modifier, tags.logicOperator], color: 'var(--code-keyword)' },
  { tag: [tags.function(tags.variableName), tags.standard(tags.name)], color: 'var(--code-function)' },
  { tag: tags.labelName, color: 'var(--code-label)' },
  { tag: tags.comment, color: 'var(--muted)', fontStyle: 'italic' },
  { tag: tags.invalid, color: 'var(--bad)' },
]);

const look = EditorView.theme({
  '&': { fontSize: '14px', backgroundColor: 'transparent', color: 'var(--text)' },
  '&.cm-focused': { outline: 'none' },
  '.cm-scroller': { fontFamily: 'var(--mono)', lineHeight: '1.55', maxHeight: '40vh' },
  '.cm-content': { padding: '8px 0', caretColor: 'var(--accent)' },
  '.cm-line': { padding: '0 12px' },
  '.cm-cursor': { borderLeftColor: 'var(--accent)' },
  '.cm-placeholder': { color: 'var(--muted)' },
  '&.cm-focused .cm-selectionBackground, .cm-selectionBackground, .cm-content ::selection': { backgroundColor: 'var(--selection) !important' },
  '&.cm-focused .cm-matchingBracket': { backgroundColor: 'var(--selection)', outline: '1px solid var(--line-strong)' },
  '.cm-tooltip': { backgroundColor: 'var(--surface)', border: '1px solid var(--line-strong)', borderRadius: '6px', boxShadow: 'var(--shadow)', color: 'var(--text)', overflow: 'hidden' },
  '.cm-tooltip.cm-tooltip-below': { marginTop: '5px' },
  '.cm-tooltip.cm-tooltip-autocomplete > ul': { fontFamily: 'var(--mono)', fontSize: '13px', maxHeight: '22em' },
  '.cm-tooltip.cm-tooltip-autocomplete > ul > li': { padding: '2px 10px' },
  '.cm-tooltip-autocomplete ul li[aria-selected]': { backgroundColor: 'var(--accent)', color: 'var(--on-accent)' },
  '.cm-tooltip-autocomplete ul li[aria-selected] .cm-completionDetail': { color: 'inherit' },
  '.cm-completionMatchedText': { textDecoration: 'none', fontWeight: '650' },
  '.cm-completionDetail': { color: 'var(--muted)', fontStyle: 'normal', marginLeft: '1.5em', float: 'right' },
  '.cm-tooltip.cm-completionInfo': { padding: '8px 12px', maxWidth: '42ch', fontFamily: 'var(--sans)', fontSize: '13px', lineHeight: '1.45' },
  '.cm-diagnostic': { fontFamily: 'var(--sans)', fontSize: '13px', padding: '5px 10px' },
  '.cm-diagnostic-error': { borderLeft: '3px solid var(--bad)' },
  '.cm-diagnostic-warning': { borderLeft: '3px solid var(--warn)' },
  '.cm-lintRange-error': { backgroundImage: 'none', textDecoration: 'underline wavy var(--bad) 1.5px', textUnderlineOffset: '3px' },
  '.cm-lintRange-warning': { backgroundImage: 'none', textDecoration: 'underline wavy var(--warn) 1.5px', textUnderlineOffset: '3px' },
});

/** Completion from this peer; the client joins `url`, the prefix and a path, so the base must end without a slash. */
function promql() {
  const url = new URL('.', location.href).href.replace(/\/$/, '');
  return new PromQLExtension().setComplete({ remote: { url, httpMethod: 'GET', cache: { maxAge: 60_000 } }, maxMetricsMetadata: 10_000 });
}

const PARTS = {
  VectorSelector: 'series', MatrixSelector: 'range', SubqueryExpr: 'subquery', AggregateExpr: 'aggregation', FunctionCall: 'function',
  BinaryExpr: 'operation', UnaryExpr: 'operation',
};
const MODIFIERS = new Set(['OffsetExpr', 'StepInvariantExpr']);

/** What `offset` and `@` are said of. */
const modified = (node) => (node && MODIFIERS.has(node.name) ? modified(node.firstChild) : node);

/** The parts of an expression that can be asked for by themselves, outermost first, each with its depth. */
export function takeApart(expr) {
  const parts = [];
  const walk = (node, depth) => {
    const kind = PARTS[modified(node)?.name];
    if (kind) parts.push({ depth, kind, text: expr.slice(node.from, node.to) });
    // What lies within a modifier's reach, asked without it, would be another thing; a range's selector says no more.
    if (kind && (MODIFIERS.has(node.name) || node.name === 'MatrixSelector')) return;
    for (let child = node.firstChild; child; child = child.nextSibling) walk(child, depth + (kind ? 1 : 0));
  };
  walk(parser.parse(expr).topNode, 0);
  return parts;
}

/** Puts an editor into `host`. Gives it back with `set(text)`, `focus()` and `destroy()`. */
export function mount(host, { value, onChange, onRun }) {
  const root = host.shadowRoot ?? host.attachShadow({ mode: 'open' });
  const language = promql();
  const own = Prec.highest(
    keymap.of([
      { key: 'Enter', run: (view) => run(view) },
      { key: 'Shift-Enter', run: insertNewlineAndIndent },
      { key: 'Mod-Enter', run: (view) => run(view) },
    ]),
  );
  const run = (view) => {
    onRun(view.state.doc.toString());
    return true;
  };
  const view = new EditorView({
    root,
    parent: root,
    state: EditorState.create({
      doc: value,
      extensions: [
        Prec.highest(keymap.of(completionKeymap)),
        own,
        history(),
        closeBrackets(),
        bracketMatching(),
        indentOnInput(),
        autocompletion({ icons: false, defaultKeymap: false }),
        EditorView.lineWrapping,
        language.asExtension(),
        syntaxHighlighting(colours),
        look,
        placeholder('Expression'),
        EditorView.contentAttributes.of({ 'aria-label': 'Expression' }),
        keymap.of([...closeBracketsKeymap, ...defaultKeymap, ...historyKeymap, ...lintKeymap]),
        EditorView.updateListener.of((update) => update.docChanged && onChange(update.state.doc.toString())),
      ],
    }),
  });
  // A shadow root's host takes no focus by itself; `/` asks it to.
  host.focus = () => {
    view.focus();
    view.dispatch({ selection: { anchor: view.state.doc.length } });
  };
  return {
    set: (text) => {
      const now = view.state.doc.toString();
      if (text !== now) view.dispatch({ changes: { from: 0, to: now.length, insert: text } });
    },
    focus: () => view.focus(),
    destroy: () => {
      language.destroy();
      view.destroy();
    },
  };
}
