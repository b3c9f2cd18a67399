// A world for one client: a clock that is turned by hand, a network that is a script, and a page.

import { RealtimeClient } from "../../shim/static/realtime/realtime.js";

/** Lets promises run; nothing of the client's waits longer than a few turns of them. */
export async function settle() {
  for (let turn = 0; turn < 30; turn++) await null;
}

export class World {
  now = 1_000_000;
  timers = new Map();
  sockets = [];
  endpoint = { backend: "legacy", url: "ws://legacy/ws/calls", protocol: "realtime.v1", reconnect: {} };
  asked = [];
  chance = () => 0.5;
  messages = [];
  events = [];
  gaps = [];
  window = new EventTarget();
  document = Object.assign(new EventTarget(), { visibilityState: "visible" });

  constructor(options = {}) {
    const world = this;
    let timer = 0;
    this.client = new RealtimeClient({
      facility: "calls",
      onMessage: message => this.messages.push(message),
      onEvent: event => this.events.push(event),
      onGap: gap => this.gaps.push(gap),
      now: () => this.now,
      setTimeout: (call, ms) => { this.timers.set(++timer, { at: this.now + ms, call }); return timer; },
      clearTimeout: id => this.timers.delete(id),
      random: () => this.chance(),
      fetch: async (url, init) => {
        this.asked.push({ url, init });
        if (this.endpoint instanceof Error) throw this.endpoint;
        const { status = 200, headers = {}, ...body } = this.endpoint;
        return new Response(JSON.stringify(body), { status, headers });
      },
      WebSocket: class extends Socket { constructor(url, protocols) { super(url, protocols); world.sockets.push(this); } },
      window: this.window,
      document: this.document,
      ...options,
    });
  }

  get socket() { return this.sockets.at(-1); }
  get live() { return this.sockets.filter(socket => !socket.closed); }
  get delay() { return this.event("lost")?.delay; }

  event(type) { return this.events.findLast(event => event.type === type); }
  count(type) { return this.events.filter(event => event.type === type).length; }
  values() { return this.messages.map(message => message.value); }

  /** Turns the clock, timer by timer. */
  async pass(ms) {
    await settle();
    const until = this.now + ms;
    for (;;) {
      const next = [...this.timers].filter(([, { at }]) => at <= until).sort(([, a], [, b]) => a.at - b.at)[0];
      if (!next) break;
      this.timers.delete(next[0]);
      this.now = Math.max(this.now, next[1].at);
      next[1].call();
      await settle();
    }
    this.now = until;
  }

  /** A first connection, ready. */
  async open(topics = { user: ["e", 0] }, more = {}) {
    await settle();
    this.socket.shake();
    this.socket.ready(topics, {}, more);
    return this.socket;
  }
}

/** The server's end of a WebSocket that has no network. */
export class Socket {
  protocol = "";
  bufferedAmount = 0;
  sent = [];
  closed = null;
  onopen = null; onmessage = null; onclose = null; onerror = null;

  constructor(url, protocols = []) {
    this.url = url;
    this.protocols = protocols;
  }

  // The client's side
  send(data) { this.sent.push(data); }
  close(code, reason = "") {
    if (code !== undefined && code !== 1000 && !(code >= 3000 && code <= 4999)) throw new Error(`a page may not say ${code}`);
    if (new TextEncoder().encode(reason).length > 123) throw new Error("the reason is too long");
    this.closed ??= { code, reason, ours: true };
  }

  // The server's side
  get frames() { return this.sent.map(each => JSON.parse(each)); }
  shake(protocol = this.protocols[0] ?? "") { this.protocol = protocol; this.onopen?.({}); }
  frame(frame) { this.text(JSON.stringify(frame)); }
  text(data) { if (!this.closed) this.onmessage?.({ data }); }
  ready(topics, recovered = {}, more = {}) {
    this.frame({ op: "ready", connection: "c", backend: this.url.includes("channels") ? "channels" : "legacy", topics, recovered, heartbeat: 25, reconnect: {}, ...more });
  }
  msg(seq, data = seq, topic = "user", epoch = "e") { this.frame({ op: "msg", topic, pos: [epoch, seq], data }); }
  move(within_ms = 4000) { this.frame({ op: "move", backend: "channels", url: "ws://channels/ws/calls", within_ms }); }
  end(code, reason = "") {
    if (this.closed) return;
    this.closed = { code, reason, ours: false };
    this.onclose?.({ code, reason });
  }
}
