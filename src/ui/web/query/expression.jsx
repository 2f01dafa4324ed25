// The field for an expression: the editor once it is loaded, a plain text field before and without it.
import { useEffect, useRef, useState } from 'preact/hooks';

let loading;
const editor = () => (loading ??= import('./editor.js'));

export function Expression({ value, onChange, onRun, focus }) {
  const host = useRef(null);
  const made = useRef(null);
  const plain = useRef(null);
  const latest = useRef({});
  const [ready, setReady] = useState(false);
  latest.current = { value, onChange, onRun };
  useEffect(() => {
    let gone = false;
    editor().then(
      ({ mount }) => {
        if (gone) return;
        const had = document.activeElement === plain.current;
        made.current = mount(host.current, {
          value: latest.current.value,
          onChange: (text) => latest.current.onChange(text),
          onRun: (text) => latest.current.onRun(text),
        });
        setReady(true);
        if (had || focus) made.current.focus();
      },
      () => {},
    );
    if (focus) plain.current?.focus();
    return () => {
      gone = true;
      made.current?.destroy();
    };
  }, []);
  useEffect(() => made.current?.set(value), [value]);
  const key = (event) => {
    if (event.key !== 'Enter' || event.shiftKey) return;
    event.preventDefault();
    onRun(event.currentTarget.value);
  };
  return (
    <div class="editor">
      {!ready && (
        <textarea ref={plain} rows={1} class="mono" data-search aria-label="Expression" placeholder="Expression" spellcheck={false}
          value={value} onInput={(event) => onChange(event.currentTarget.value)} onKeyDown={key} />
      )}
      <div ref={host} data-search={ready || undefined} tabIndex={ready ? undefined : -1} />
    </div>
  );
}
