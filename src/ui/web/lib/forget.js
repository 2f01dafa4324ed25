// What codemirror-promql caches its answers in; stands for the package `lru-cache`, of which it uses these few calls.

/** A map whose entries are gone after `ttl` ms. */
export class LRUCache {
  #ttl;
  #entries = new Map();

  constructor({ ttl }) {
    this.#ttl = ttl;
  }

  get(key) {
    const entry = this.#entries.get(key);
    if (!entry) return undefined;
    if (entry.until > Date.now()) return entry.value;
    this.#entries.delete(key);
    return undefined;
  }

  set(key, value) {
    this.#entries.set(key, { value, until: Date.now() + this.#ttl });
    return this;
  }
}
