/**
 * The interface of ws4redis's own script, on top of realtime.js: the source of static/js/ws4redis.js, which holds both
 * (`python -m tests.js.bundle`). What a page sees is what it saw; what is new is behind it: it resumes where it was
 * (contract 5.3), moves without a break (8.3), and waits as the server says. docs/reference/ws4redis.md.
 */

import { RealtimeClient } from "../shim/static/realtime/realtime.js";

const V1 = "realtime.v1";
const ORIGINAL = "ws4redis"; // offered beside v1: no server agrees to it, see Carrier
const SILENCE = 20_000; // a page that speaks with the original is patient for so long, as its script was
const CONNECTING = 0, OPEN = 1, CLOSING = 2, CLOSED = 3;

/**
 * A WebSocket that speaks v1 with servers that can, and pretends to with those that cannot: processes that still run
 * the original package, beside ours, at one address.
 *
 * The original sends back whatever subprotocols it was offered, all in one header. Were that v1 alone, the browser would
 * take it for a yes, and `hello` would be published as a message. Two are no valid answer, so the browser breaks off.
 * Then, at the next attempt, the raw protocol is tried. Whoever answers to that is asked for v1 once more, beside it,
 * before raw is settled for: a server of ours may just have come back, and what was missed can be had there.
 */
class Carrier {
  protocol = "";
  onopen = null; onmessage = null; onclose = null; onerror = null;
  #memory;
  #real; // what carries, once that is clear
  #dialed = []; // before that
  #waiting = []; // came on raw before it was settled for
  #isRaw = false;
  #pings;

  constructor(url, memory) {
    this.#memory = memory;
    const { failures, wasAccepted } = memory;
    if (wasAccepted ? failures % 4 === 3 : failures % 2 === 1) this.#dialRaw(url);
    else this.#dialV1(url, event => this.#failed(event));
  }

  get bufferedAmount() { return this.#real?.bufferedAmount ?? 0; }
  set binaryType(_) { /* always as bytes */ }

  send(data) { this.#isRaw ? this.#sendRaw(JSON.parse(data)) : this.#real.send(data); }

  close(code, reason) {
    clearInterval(this.#pings);
    for (const socket of this.#real ? [this.#real] : this.#dialed) socket.close(code, reason);
  }

  #dial(url, protocols) {
    const socket = protocols ? new this.#memory.WebSocket(url, protocols) : new this.#memory.WebSocket(url);
    socket.binaryType = "arraybuffer";
    this.#dialed.push(socket);
    return socket;
  }

  #dialV1(url, refused) {
    const socket = this.#dial(url, [V1, ORIGINAL]);
    socket.onopen = () => {
      this.#memory.wasAccepted = true;
      this.#settle(socket, socket.protocol);
    };
    socket.onclose = refused;
  }

  #dialRaw(url) {
    const socket = this.#dial(url);
    socket.onmessage = ({ data }) => this.#waiting.push(data);
    socket.onclose = event => this.#failed(event);
    socket.onopen = () => this.#dialV1(url, () => {
      this.#isRaw = true;
      this.#settle(socket, V1);
    });
  }

  #settle(real, protocol) {
    this.#real = real;
    this.#memory.failures = 0;
    this.protocol = protocol;
    for (const other of this.#dialed) {
      if (other === real) continue;
      other.onopen = other.onmessage = other.onclose = null;
      other.close();
    }
    real.onmessage = event => this.#isRaw ? this.#heardRaw(event.data) : this.onmessage?.(event);
    real.onclose = event => {
      clearInterval(this.#pings);
      this.onclose?.(event);
    };
    this.onopen?.({});
  }

  #failed(event) {
    this.#memory.failures++;
    for (const socket of this.#dialed) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close();
    }
    this.onclose?.(event);
  }

  // Both ends of v1, over raw

  #say(frame) { this.onmessage?.({ data: JSON.stringify(frame) }); }

  #sendRaw(frame) {
    if (frame.op === "hello") {
      const { heartbeat } = this.#memory; // with it, silence means something: watched as its script did
      this.#say({ op: "ready", connection: ORIGINAL, backend: "legacy", topics: {}, heartbeat: heartbeat ? (SILENCE - 8_000) / 1000 : 25 });
      if (!heartbeat) this.#pings = setInterval(() => this.#say({ op: "ping" }), SILENCE);
      for (const data of this.#waiting.splice(0)) this.#heardRaw(data);
    } else if (frame.op === "send") {
      this.#real.send("b64" in frame ? Uint8Array.from(atob(frame.b64), c => c.charCodeAt(0)) : frame.text);
      this.#say({ op: "ack", id: frame.id });
    }
  }

  #heardRaw(data) {
    if (data === this.#memory.heartbeat) return this.#say({ op: "ping" });
    if (typeof data === "string") return this.#say({ op: "msg", topic: null, pos: null, text: data });
    const binary = Array.from(new Uint8Array(data), byte => String.fromCharCode(byte)).join("");
    this.#say({ op: "msg", topic: null, pos: null, b64: btoa(binary) });
  }
}

/** A connection that page code of ws4redis's time uses: `new WS4Redis({ uri, receive_message, … })`. jQuery is not needed. */
export function WS4Redis(options, $) {
  if (!new.target) return new WS4Redis(options, $);
  if (options?.uri === undefined) throw new Error("WS4Redis needs a uri: WS4Redis({ uri: '{{ WEBSOCKET_URI }}foobar?subscribe-broadcast' })");
  const opts = { heartbeat_msg: null, ...options };
  const call = (name, argument) => typeof opts[name] === "function" && opts[name](argument);
  const [url, query = ""] = String(opts.uri).split(/\?(.*)/s);
  const memory = { failures: 0, wasAccepted: false, heartbeat: opts.heartbeat_msg, WebSocket: globalThis.WebSocket, ...opts.realtime };
  let ended = null; // CLOSING, then CLOSED
  let hasBegun = false;
  let held = null; // a Blob is being read, and what is sent after it waits

  const client = new RealtimeClient({
    url,
    params: [...query.split("&").filter(Boolean), "last"], // as raw: the last message of each channel comes first
    ...opts.realtime,
    WebSocket: function (target) { return new Carrier(target, memory); },
    onMessage({ kind, value }) {
      if (kind === "text" && opts.heartbeat_msg && value === opts.heartbeat_msg) return;
      call("receive_message", kind === "binary" ? new Blob([value]) : kind === "json" ? JSON.stringify(value) : value);
    },
    onGap: gap => call("missed", gap),
    onEvent(event) {
      if (event.type === "connecting") {
        if (hasBegun) call("connecting");
        hasBegun = true;
      } else if (event.type === "connected") call("connected");
      else if (event.type === "lost") call("disconnected", closeEvent(event.code, event.reason));
      else if (event.type === "closed" && ended === null) {
        ended = CLOSED;
        call("disconnected", closeEvent(event.code, event.reason));
      } else if (event.type === "error" || event.type === "protocolError") console.warn("ws4redis:", event.reason);
    },
  });
  call("connecting");

  const state = () => {
    if (ended !== null) return ended;
    if (client.state === "open") return OPEN;
    return client.state === "waiting" && hasBegun ? CLOSED : CONNECTING;
  };
  const send = value => client.send(value, { ack: false }).catch(error => console.warn("ws4redis:", error.message));

  /** Sends what `WebSocket.send` takes. Lost while there is no connection, an error before the first one, as ever. */
  this.send_message = message => {
    if (state() === CONNECTING) throw new DOMException("still connecting", "InvalidStateError");
    if (state() !== OPEN) return;
    const isBlob = message instanceof Blob, isBytes = message instanceof ArrayBuffer || ArrayBuffer.isView(message);
    const value = isBlob || isBytes ? message : String(message).replace(/\p{Surrogate}/gu, "\ufffd");
    if (!isBlob && !held) return void send(value); // at once: the page may be about to leave
    const mine = held = Promise.resolve(held).then(async () => send(isBlob ? await value.arrayBuffer() : value))
      .finally(() => { if (held === mine) held = null; });
  };
  this.get_state = state;
  this.is_connecting = () => state() === CONNECTING;
  this.is_connected = () => state() === OPEN;
  this.is_closing = () => state() === CLOSING;
  this.is_closed = () => state() === CLOSED;

  /** The end: it does not come back. */
  this.close = () => {
    if (ended !== null) return;
    ended = CLOSING;
    client.close();
    setTimeout(() => {
      ended = CLOSED;
      call("disconnected", closeEvent(1005, ""));
    });
  };
}

function closeEvent(code, reason) {
  const fields = { code: code ?? 1006, reason: String(reason), wasClean: code !== null && code !== 1006 };
  return typeof CloseEvent === "function" ? new CloseEvent("close", fields) : { type: "close", ...fields };
}
