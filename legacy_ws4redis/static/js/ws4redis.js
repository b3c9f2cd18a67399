// ws4redis's script for pages that were written for it, with resume and moves: made of shim/static/realtime/realtime.js
// and legacy_ws4redis/ws4redis.js by `python -m tests.js.bundle`. Change those.

var WS4Redis = (() => {
"use strict";

/**
 * A `realtime.v1` client for browsers and node: docs/how-to/write-a-client.md; types are in realtime.d.ts.
 *
 * The rules are those of the Python client (`shim.client`). There is a *present* connection, and during a move one
 * *beside* it (contract 8.3): the new one until it is `ready`, then the old one, until it has answered what was sent
 * there. Whoever reads what comes from a connection asks first which of the two it is; any other is over and mute.
 * What the application gets is decided by `Topics` alone.
 */

const SUBPROTOCOL = "realtime.v1";
const PONG = '{"op":"pong"}';
const HEARTBEAT_TEXT = "--heartbeat--";
const ANSWER = 8_000; // a server waits that long for an answer; we are as patient (contract 7.1)
const MARGIN = 5_000; // more, once: a timer of a page that was frozen runs before what came meanwhile is seen
const LIVED = 10_000; // open for longer than this, a connection counts as having worked
const LONGEST = 60_000; // no server can keep a client between two connections for longer, or send it away for
const LONGEST_WAIT = 600_000;
const MAX_UNANSWERED = 1_000;
const MAX_UNSENT = 8 * 1_048_576; // bytes
const MAX_LEFT_EPOCHS = 256;
const LEAVE = 1000, TOO_SLOW = 4001, SILENT = 4002, VIOLATION = 4400, PUT_AWAY = 4401;

/** What the server sent cannot be right; the text is the rule. */
class Violated extends Error {}

/** `code` is a close code, an HTTP status, or a word of the server's `error` frame. */
class RealtimeError extends Error {
  constructor(message, code = null) {
    super(message);
    this.name = "RealtimeError";
    this.code = code;
  }
}

const need = (right, rule) => { if (!right) throw new Violated(rule); };
const isObject = value => value !== null && typeof value === "object" && !Array.isArray(value);
const isNumber = value => typeof value === "number" && value >= 0 && value < Infinity;
const bounded = (value, least, most) => Math.min(Math.max(value, least), most);
const staysAway = code => [1000, 1002, 1003, 1007, 1008, 1009].includes(code) || (code >= 4500 && code <= 4999);
const same = (a, b) => a?.[0] === b?.[0] && a?.[1] === b?.[1];
const isBehind = (told, known) => told[0] === known[0] && told[1] < known[1];
const cut = text => [...String(text)].slice(0, 30).join(""); // at most 120 of the 123 bytes of a close frame

function position(value) {
  need(Array.isArray(value) && value.length === 2 && typeof value[0] === "string" && value[0]
    && Number.isSafeInteger(value[1]) && value[1] >= 0, 'a position is ["<epoch>", seq]');
  return value;
}

/** One frame of the server, looked at; `msg` gets `message`. Ops that we do not know are passed over. */
function parse(data) {
  need(typeof data === "string", "a binary frame; realtime.v1 has text frames only");
  let frame;
  try { frame = JSON.parse(data); } catch { need(false, "not JSON"); }
  need(isObject(frame), "not a JSON object");
  const { op, topic = null } = frame;
  if (op === "msg") {
    const [key, more] = ["data", "text", "b64"].filter(name => name in frame);
    need(key && !more, 'a "msg" has exactly one of "data", "text" and "b64"');
    let value = frame[key];
    need(key === "data" || typeof value === "string", `"${key}" is a string`);
    if (key === "b64") {
      try { value = Uint8Array.from(atob(value), c => c.charCodeAt(0)); } catch { need(false, '"b64" is not base64'); }
    }
    need(frame.pos === null || (position(frame.pos) && topic !== null), 'a "msg" has a "pos", and then a "topic"');
    frame.message = { topic, position: frame.pos, kind: { data: "json", text: "text", b64: "binary" }[key], value };
  } else if (op === "ready") {
    frame.recovered ??= {};
    need(typeof frame.connection === "string" && typeof frame.backend === "string", '"ready" says who is');
    need(isObject(frame.topics) && isObject(frame.recovered), '"ready" needs "topics" and "recovered"');
    Object.values(frame.topics).forEach(told => told === null || position(told));
  } else if (op === "gap" || op === "skip") {
    position(frame.pos);
  } else if (op === "move") {
    need(typeof frame.url === "string" && isNumber(frame.within_ms), '"move" needs "url" and "within_ms"');
  }
  return frame;
}

/** What is known of the topics: nothing is handed on twice, nothing that is missing goes unsaid (as client/topics.py). */
class Topics {
  positions; // of each topic the last one handed on, or told
  #names = new Set();
  #streams = new Map(); // after a move: topics for which the new connection is behind what the old one brought
  #left = new Set(); // epochs that are over, oldest first

  constructor(positions, counters) {
    this.positions = Object.assign(Object.create(null), positions);
    this.counters = counters;
  }

  /** A connection begins to carry the topics; `asked` is what its `hello` said. The gaps that show. */
  ready({ topics, recovered }, asked) {
    this.#names = new Set(Object.keys(topics));
    this.#streams.clear();
    const known = Object.create(null), gaps = [];
    for (const [topic, told] of Object.entries(topics)) {
      if (told === null) continue;
      const mine = this.positions[topic], since = asked[topic];
      const came = recovered[topic] === true && since && told[0] === since[0] && told[1] >= since[1];
      // Or: since `hello` the other connection has brought all up to where the topic stands.
      const covered = mine && !same(mine, since) && told[0] === mine[0] && told[1] <= mine[1]
        && !(since && isBehind(told, since));
      if (mine && (came || covered)) {
        known[topic] = mine;
        const start = came ? since : told;
        if (!same(start, mine)) this.#streams.set(topic, start);
        continue;
      }
      known[topic] = told;
      this.#leave(topic, mine, told);
      if (mine) gaps.push({ topic, position: told, known: mine });
    }
    this.positions = known;
    this.counters.gaps += gaps.length;
    return gaps;
  }

  /** A message came. Null when it is to be dropped; else the hole before it, if there is one. */
  message({ topic, position }) {
    need(this.#names.has(topic), 'a message of a topic that "ready" did not name (contract 3.3)');
    if (position === null) return {};
    const known = this.positions[topic];
    let hole;
    if (known) {
      if (this.#isRepeated(topic, position, known)) return null;
      need(position[0] === known[0], "a new epoch without gap (contract 7.4)");
      if (position[1] <= known[1]) {
        this.counters.duplicates++;
        return null;
      }
      if (position[1] > known[1] + 1) {
        this.counters.holes++;
        hole = { topic, position, known };
      }
    }
    this.positions[topic] = position;
    return { hole };
  }

  /** The server said `gap`. Null when the other connection has brought, or said, as much. */
  gap(topic, position) {
    need(this.#names.has(topic), 'a gap of a topic that "ready" did not name');
    const known = this.positions[topic], stream = this.#streams.get(topic);
    if (known && stream && !isBehind(position, stream)) {
      const older = position[0] === stream[0] && stream[0] !== known[0];
      if (older || (position[0] === known[0] && position[1] <= known[1])) {
        this.#advance(topic, position, known);
        return null;
      }
      this.#streams.delete(topic);
    }
    const over = this.#left.has(`${topic} ${position[0]}`);
    need(!over && !(known && isBehind(position, known)), "a gap that goes back");
    this.#leave(topic, known, position);
    this.positions[topic] = position;
    this.counters.gaps++;
    return { topic, position, known: known ?? null };
  }

  /** Whether a message repeats what came by the other connection; it may do so once. */
  #isRepeated(topic, position, known) {
    const stream = this.#streams.get(topic);
    if (!stream || position[0] !== stream[0] || (position[0] === known[0] && position[1] > known[1])) {
      this.#streams.delete(topic);
      return false;
    }
    if (position[1] <= stream[1]) this.counters.duplicates++;
    else this.#advance(topic, position, known);
    return true;
  }

  #advance(topic, position, known) {
    if (same(position, known)) this.#streams.delete(topic);
    else this.#streams.set(topic, position);
  }

  /** An epoch that is over is remembered, so that no stray `gap` leads back into it. */
  #leave(topic, known, position) {
    this.#left.delete(`${topic} ${position[0]}`);
    if (!known || known[0] === position[0]) return;
    this.#left.add(`${topic} ${known[0]}`);
    if (this.#left.size > MAX_LEFT_EPOCHS) this.#left.delete(this.#left.values().next().value);
  }
}

/** The body of a message as v1 carries it. Throws what cannot be carried (contract 4.2). */
function payload(value, asJson) {
  const carried = text => {
    if (/\p{Surrogate}/u.test(text)) throw new RealtimeError("a lone surrogate cannot be carried (contract 4.2)");
    return text;
  };
  if (!asJson && typeof value === "string") return { key: "text", text: JSON.stringify(carried(value)), raw: value };
  if (!asJson && (value instanceof ArrayBuffer || ArrayBuffer.isView(value))) {
    const raw = value instanceof ArrayBuffer ? new Uint8Array(value)
      : new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
    let binary = "";
    for (let at = 0; at < raw.length; at += 8192) binary += String.fromCharCode(...raw.subarray(at, at + 8192));
    return { key: "b64", text: `"${btoa(binary)}"`, raw };
  }
  const text = JSON.stringify(value, (key, each) => {
    carried(key);
    if (typeof each === "string") carried(each);
    if (typeof each === "number" && !Number.isFinite(each)) throw new RealtimeError(`${each} is not JSON (contract 4.2)`);
    return each;
  });
  if (text === undefined) throw new RealtimeError(`${typeof value} is not JSON (contract 4.2)`);
  return { key: "data", text, raw: text };
}

class RealtimeClient {
  state = "waiting";
  backend = null;
  url = "";
  connection = null;
  error = null;
  counters = {
    received: 0, duplicates: 0, holes: 0, gaps: 0, connects: 0, losses: 0,
    movesTold: 0, moved: 0, movesFailed: 0, protocolErrors: 0,
  };
  opened;
  #options;
  #v1;
  #topics;
  #present = null;
  #beside = null;
  #next = null; // a move that was told while the last one was not quite over
  #pace = { base: 500, cap: 30_000, spread: 5_000 };
  #attempt = 0;
  #run = 0; // which attempt is under way; what an older one still finds is nothing
  #retry; // timer
  #mayHurry = false; // the wait is one of our own, so the network coming back ends it
  #suspended = false;
  #wasOffline = false;
  #heartbeat = 25_000;
  #heardAt = 0;
  #watch; // timer
  #probing = false;
  #lastId = 0;
  #unanswered = new Map();
  #queue; // for iteration: messages that wait, null with onMessage
  #takers = [];
  #full = false;
  #settleOpened;
  #unlisten = [];

  constructor(options) {
    const o = this.#options = {
      endpoint: "/realtime/endpoint", protocol: "v1", params: [], address: url => url, connectTimeout: 10_000,
      maxMessageBytes: 1_048_576, buffer: 10_000, random: Math.random, now: Date.now,
      setTimeout: (call, ms) => setTimeout(call, ms), clearTimeout: timer => clearTimeout(timer),
      fetch: globalThis.fetch?.bind(globalThis), WebSocket: globalThis.WebSocket,
      window: globalThis, document: globalThis.document, ...options,
    };
    if (!o.url === !o.facility) throw new TypeError("give a facility, or url");
    if (!["v1", "raw"].includes(o.protocol)) throw new TypeError(`protocol is "v1" or "raw", not ${o.protocol}`);
    if (!o.WebSocket || !(o.fetch || o.url)) throw new TypeError("no WebSocket or no fetch here: give them as options");
    this.#v1 = o.protocol === "v1";
    this.#topics = new Topics(o.positions ?? {}, this.counters);
    this.#queue = o.onMessage ? null : [];
    this.opened = new Promise((resolve, reject) => { this.#settleOpened = { resolve, reject }; });
    this.opened.catch(() => {}); // who does not look at it learns from `closed`
    this.#listen();
    queueMicrotask(() => this.#connect()); // callbacks may want what the constructor returns
  }

  /** What the next `hello` resumes after; give it to another client to continue there (contract 5.3). */
  get positions() { return { ...this.#topics.positions }; }

  /** Send a message; resolves when the facility's handler has taken it (with `ack: false`: at once). */
  send(value, { json = false, ack = true, timeout = 10_000 } = {}) {
    const sent = new Promise((resolve, reject) => {
      const link = this.#present;
      if (this.state !== "open") throw new RealtimeError(`not connected: ${this.state}`);
      const { key, text, raw } = payload(value, json);
      const size = typeof raw === "string" ? new TextEncoder().encode(raw).length : raw.length;
      if (size > this.#options.maxMessageBytes) throw new RealtimeError(`${size} bytes are too many (contract 4.2)`, 1009);
      if (this.#unanswered.size >= MAX_UNANSWERED || link.socket.bufferedAmount > MAX_UNSENT) {
        throw new RealtimeError("too much is under way: await what was sent");
      }
      if (!this.#v1) return resolve(link.socket.send(raw));
      const id = ++this.#lastId;
      const late = () => this.#settle(id, new RealtimeError(`no answer to message ${id} within ${timeout} ms`));
      link.owed.add(id);
      if (ack) this.#unanswered.set(id, { resolve, reject, link, timer: this.#options.setTimeout(late, Math.min(timeout, LONGEST_WAIT)) });
      link.socket.send(`{"op":"send","id":${id},"${key}":${text}}`);
      if (!ack) resolve();
    });
    sent.catch(() => {}); // an answer that nobody awaits is an `error` event, not an unhandled rejection
    return sent;
  }

  /** End it; nothing is called any more, and iteration ends. */
  close() {
    if (this.state !== "closed") this.#end(null, { code: LEAVE, reason: "closed by this client" });
  }

  /** The next message; without `onMessage`. Ends with `close`, and throws `error` when the client has given up. */
  next() {
    if (!this.#queue) throw new TypeError("messages go to onMessage: leave it out to iterate");
    if (this.#queue.length) {
      const value = this.#queue.shift();
      if (this.#full && this.#queue.length <= this.#options.buffer / 2) {
        this.#full = false;
        if (this.state === "waiting") this.#connect();
      }
      return Promise.resolve({ value, done: false });
    }
    if (this.state === "closed") return this.error ? Promise.reject(this.error) : Promise.resolve({ value: undefined, done: true });
    return new Promise((resolve, reject) => this.#takers.push({ resolve, reject }));
  }

  [Symbol.asyncIterator]() { return { next: () => this.next() }; }

  // Connecting

  async #connect() {
    if (this.state === "closed" || this.#suspended || this.#full) return;
    const run = ++this.#run;
    this.#options.clearTimeout(this.#retry);
    this.state = "connecting";
    this.#tell("connecting", { attempt: this.#attempt });
    if (run !== this.#run) return;
    let found = { url: this.#options.url, backend: null };
    if (!found.url) {
      try {
        found = await this.#discover();
      } catch (error) {
        return run === this.#run ? this.#failed(error) : undefined;
      }
    }
    if (run !== this.#run) return;
    this.#told(found.reconnect);
    this.backend = found.backend;
    try {
      this.#present = this.#dial(found, this.#options.connectTimeout);
    } catch (error) {
      this.#failed(error);
    }
  }

  /** Where to connect now (contract, "frames"). */
  async #discover() {
    const { endpoint, facility, fetch, connectTimeout } = this.#options;
    const control = new AbortController();
    let timer;
    const late = new Promise((_, reject) => {
      timer = this.#options.setTimeout(() => {
        control.abort();
        reject(new RealtimeError(`no answer from ${endpoint} within ${connectTimeout} ms`));
      }, connectTimeout);
    });
    const ask = async () => {
      const response = await fetch(`${endpoint}${endpoint.includes("?") ? "&" : "?"}facility=${encodeURIComponent(facility)}`,
        { credentials: "include", cache: "no-store", signal: control.signal });
      const { status } = response;
      if (!response.ok) {
        const error = new RealtimeError(`${endpoint} answered ${status}`, status);
        error.fatal = status >= 400 && status < 500 && ![408, 425, 429].includes(status);
        const after = response.headers.get("retry-after") ?? "";
        const ms = /^\d+$/.test(after) ? after * 1000 : Date.parse(after) - this.#options.now();
        error.after = ms > 0 ? Math.min(ms, LONGEST) : 0;
        throw error;
      }
      const found = await response.json();
      if (typeof found?.url !== "string") throw new RealtimeError(`${endpoint} did not say where to connect`);
      return found;
    };
    try {
      return await Promise.race([ask(), late]);
    } finally {
      this.#options.clearTimeout(timer);
    }
  }

  #dial({ url, backend }, ms) {
    const { params, address, WebSocket } = this.#options;
    const words = this.#v1 ? params : [...params, "heartbeat"]; // a page does not see a server's pings
    let target = address(url);
    if (words.length) target += (target.includes("?") ? "&" : "?") + words.join("&");
    const socket = this.#v1 ? new WebSocket(target, [SUBPROTOCOL]) : new WebSocket(target);
    socket.binaryType = "arraybuffer";
    const link = { socket, url: target, backend, owed: new Set(), asked: null, openedAt: null, leaving: false };
    const isOurs = () => link === this.#present || link === this.#beside;
    link.timer = this.#options.setTimeout(() => this.#late(link), ms);
    socket.onopen = () => isOurs() && this.#shaken(link);
    socket.onmessage = ({ data }) => isOurs() && this.#received(link, data);
    socket.onclose = ({ code, reason }) => isOurs() && this.#lost(link, code, reason);
    socket.onerror = () => {}; // `close` follows, and says as much
    return link;
  }

  /** The handshake is done. */
  #shaken(link) {
    if (!this.#v1) return this.#open(link, {}, []);
    if (link.socket.protocol !== SUBPROTOCOL) return this.#drop(link, VIOLATION, `${link.url} does not speak ${SUBPROTOCOL}`);
    if (link === this.#present) {
      this.state = "greeting";
      this.#restart(link);
    }
    link.asked = this.positions;
    link.socket.send(JSON.stringify({ op: "hello", resume: link.asked, was: this.connection ?? undefined }));
  }

  #restart(link) {
    this.#options.clearTimeout(link.timer);
    link.timer = this.#options.setTimeout(() => this.#late(link), this.#options.connectTimeout);
  }

  #late(link) {
    if (link.leaving) this.#leave();
    else this.#drop(link, SILENT, "not ready in time");
  }

  #open(link, ready, gaps) {
    this.#options.clearTimeout(link.timer);
    this.state = "open";
    this.url = link.url;
    link.openedAt = this.#options.now();
    this.counters.connects++;
    this.#heard();
    this.#tell("connected", { backend: this.backend, url: link.url, ...ready });
    this.#settleOpened.resolve(this);
    this.#tellGaps("gap", gaps);
  }

  // Coming in

  #received(link, data) {
    if (!this.#v1) {
      this.#heard();
      if (data === HEARTBEAT_TEXT) return;
      const isText = typeof data === "string";
      return this.#deliver({ topic: null, position: null, kind: isText ? "text" : "binary", value: isText ? data : new Uint8Array(data) });
    }
    try {
      const frame = parse(data);
      if (link === this.#present && this.state === "open") this.#heard();
      if (frame.op === "ping") return link.socket.send(PONG);
      if (frame.op === "ack" || frame.op === "error") return this.#answered(link, frame);
      if (frame.op === "ready") return this.#ready(link, frame);
      if (!link.openedAt) need(!["msg", "skip", "gap", "move"].includes(frame.op), 'the first frame is "ready" (contract 2.1)');
      else if (frame.op === "msg") this.#message(link, frame.message);
      else if (link !== this.#present) return; // the new connection says it
      else if (frame.op === "skip") this.#skip(frame);
      else if (frame.op === "gap") this.#tellGaps("gap", [this.#topics.gap(frame.topic, frame.pos)]);
      else if (frame.op === "move") this.#toldToMove(frame);
    } catch (error) {
      if (!(error instanceof Violated)) throw error;
      if (link.leaving) return this.#leave();
      this.counters.protocolErrors++;
      this.#tell("protocolError", { reason: error.message, data: String(data).slice(0, 200) });
      this.#drop(link, VIOLATION, error.message);
    }
  }

  #ready(link, frame) {
    need(!link.openedAt, 'a second "ready"');
    const before = this.#present;
    this.#present = link;
    this.backend = frame.backend;
    this.connection = frame.connection;
    this.#told(frame.reconnect);
    this.#heartbeat = frame.heartbeat ? bounded(frame.heartbeat * 1000, 50, LONGEST_WAIT) : 25_000;
    const gaps = this.#topics.ready(frame, link.asked);
    const { connection, topics, recovered } = frame;
    if (link === before) return this.#open(link, { connection, topics, recovered }, gaps);
    // A move: they change places, and the old one stays for the answers that it owes.
    this.#options.clearTimeout(link.timer);
    before.leaving = true;
    before.timer = this.#options.setTimeout(() => this.#late(before), Math.max(link.deadline - this.#options.now(), 0));
    this.#beside = before;
    this.url = link.url;
    link.openedAt = before.openedAt; // connected without a break: a move is no sign of trouble
    this.counters.connects++;
    this.counters.moved++;
    this.#heard();
    this.#tell("moved", { backend: frame.backend, url: link.url, connection, topics, recovered });
    this.#tellGaps("gap", gaps);
    if (!before.owed.size && this.#beside === before) this.#leave();
  }

  #message(link, message) {
    if (message.topic !== null) {
      if (link !== this.#present) return; // the new connection brings it
      // Not kept, so it cannot be told from its copy on the new connection: at most once.
      if (message.position === null && this.#beside?.asked && !this.#beside.leaving) return;
      const fate = this.#takes() && this.#topics.message(message);
      if (!fate) return;
      if (fate.hole) this.#tellGaps("hole", [fate.hole]);
    }
    this.#deliver(message);
  }

  /** In the place of a message of our own, which is not brought (contract 6.5). */
  #skip({ topic, pos }) {
    const { hole } = this.#topics.message({ topic, position: pos }) ?? {};
    if (hole) this.#tellGaps("hole", [hole]);
  }

  /** Whether there is room; if not, the connection goes, and what follows is asked for when there is (contract 7.2). */
  #takes() {
    if (!this.#queue || this.#queue.length < this.#options.buffer) return true;
    this.#full = true;
    this.#drop(this.#present, TOO_SLOW, "the application takes its messages too slowly");
    return false;
  }

  #deliver(message) {
    if (this.state === "closed") return;
    if (!this.#queue) {
      this.counters.received++;
      this.#call("onMessage", message);
    } else if (this.#takers.length) {
      this.counters.received++;
      this.#takers.shift().resolve({ value: message, done: false });
    } else if (this.#takes()) {
      this.counters.received++;
      this.#queue.push(message);
    }
  }

  #answered(link, { op, id = null, code, reason }) {
    link.owed.delete(id);
    const error = op === "error" ? new RealtimeError(`${code}: ${reason}`, code) : null;
    this.#settle(id, error);
    if (error) this.#tell("error", { id, code, reason });
    if (link.leaving && !link.owed.size && link === this.#beside) this.#leave();
  }

  #settle(id, error) {
    const open = this.#unanswered.get(id);
    if (!open) return;
    this.#unanswered.delete(id);
    this.#options.clearTimeout(open.timer);
    if (error) open.reject(error);
    else open.resolve();
  }

  // Moving

  #toldToMove(frame, toldAt = this.#options.now()) {
    this.counters.movesTold++;
    if (!this.#beside) this.#move(frame, toldAt);
    else if (this.#beside.leaving) this.#next = { frame, toldAt }; // one at a time: the old one may still owe an answer
  }

  #move({ backend, url, within_ms }, toldAt) {
    const deadline = toldAt + Math.min(within_ms, LONGEST), left = deadline - this.#options.now();
    this.#tell("moving", { backend, url, within: within_ms });
    if (this.state !== "open") return;
    try {
      if (left <= 0) throw new RealtimeError("not ready in time");
      if (this.url.startsWith("wss:") && !url.startsWith("wss:")) {
        throw new RealtimeError("a move from wss has to lead to wss, or cookies would travel in clear");
      }
      this.#beside = this.#dial({ url, backend }, left);
      this.#beside.deadline = deadline;
    } catch (error) {
      this.#notMoved(backend, error.message);
    }
  }

  #notMoved(backend, reason) {
    this.counters.movesFailed++;
    this.#tell("moveFailed", { backend, reason });
  }

  /** The old connection has answered, or its time is over. */
  #leave() {
    const old = this.#beside;
    this.#beside = null;
    this.#shut(old, LEAVE, "moved", "the connection was left before the answer came");
    const next = this.#next;
    this.#next = null;
    if (next && this.state === "open") this.#move(next.frame, next.toldAt);
  }

  // Ending

  #drop(link, code, reason) {
    this.#lost(link, code, reason, true);
  }

  #shut(link, code, reason, why) {
    const { socket } = link;
    socket.onopen = socket.onmessage = socket.onclose = null;
    this.#options.clearTimeout(link.timer);
    try {
      socket.close(code >= 3000 ? code : LEAVE, cut(reason)); // a page may say no other code
    } catch { /* a socket that is not ours may be choosy */ }
    for (const [id, open] of this.#unanswered) if (open.link === link) this.#settle(id, new RealtimeError(why, code));
  }

  #lost(link, code, reason, ours = false) {
    const why = `the connection ended: ${code} ${reason}`;
    if (link === this.#beside) {
      this.#beside = null;
      if (link.leaving) {
        this.#beside = link;
        return this.#leave();
      }
      this.#shut(link, code, reason, why);
      return this.#notMoved(link.backend, why);
    }
    const lived = link.openedAt !== null && this.#options.now() - link.openedAt >= LIVED;
    if (lived) this.#attempt = 0;
    this.#alone(code, reason);
    if (!ours && staysAway(code)) return this.#end(new RealtimeError(why, code), { code, reason });
    let delay = !ours && code === 1012 ? this.#pace.spread * this.#options.random() : this.#backoff();
    if (!ours && code === 1012 && !lived) { // moved again and again: the spread alone could be 0, and this a spin
      delay = Math.max(delay, this.#attempt ? this.#backoff() : 0);
      this.#attempt ||= 1;
    }
    this.#wait(delay, { code, reason }, ours || code !== 1012);
  }

  /** No connection is left. */
  #alone(code, reason) {
    this.#options.clearTimeout(this.#watch);
    this.#run++;
    this.#next = null;
    const [present, beside] = [this.#present, this.#beside];
    this.#present = this.#beside = null;
    for (const link of [present, beside]) if (link) this.#shut(link, code, reason, `the connection ended: ${code} ${reason}`);
    if (present?.openedAt) this.counters.losses++;
    if (beside && !beside.leaving) this.#notMoved(beside.backend, "the old connection ended first");
  }

  #failed(error) {
    if (error.fatal) return this.#end(error, { code: null, reason: error.message });
    this.#wait(this.#backoff() + (error.after ?? 0), { code: null, reason: String(error.message ?? error) }, !error.after);
  }

  #wait(delay, lost, mayHurry) {
    if (this.state === "closed") return;
    this.state = "waiting";
    this.#mayHurry = mayHurry;
    this.#retry = this.#options.setTimeout(() => this.#connect(), delay);
    this.#tell("lost", { ...lost, delay });
  }

  #end(error, lost) {
    if (this.state === "closed") return;
    this.#alone(lost.code ?? LEAVE, lost.reason);
    this.#options.clearTimeout(this.#retry);
    this.#unlisten.forEach(each => each());
    this.error = error;
    this.state = "closed";
    this.#settleOpened.reject(error ?? new RealtimeError(lost.reason, lost.code));
    if (!error && this.#queue) this.#queue.length = 0;
    for (const { resolve, reject } of this.#takers.splice(0)) error ? reject(error) : resolve({ value: undefined, done: true });
    this.#call("onEvent", { type: "closed", ...lost, error });
  }

  // Time

  #told(reconnect) {
    const { base_ms, cap_ms, spread_ms } = isObject(reconnect) ? reconnect : {}, pace = this.#pace;
    const base = bounded(isNumber(base_ms) ? base_ms : pace.base, 10, LONGEST_WAIT);
    const cap = bounded(isNumber(cap_ms) ? cap_ms : pace.cap, base, LONGEST_WAIT);
    this.#pace = { base, cap, spread: Math.min(isNumber(spread_ms) ? spread_ms : pace.spread, LONGEST_WAIT) };
  }

  #backoff() { // full jitter
    return this.#options.random() * Math.min(this.#pace.cap, this.#pace.base * 2 ** Math.min(this.#attempt++, 30));
  }

  #heard() {
    this.#probing = false;
    this.#heardAt = this.#options.now();
    this.#listenFor(this.#heartbeat + ANSWER);
  }

  #listenFor(ms) {
    this.#options.clearTimeout(this.#watch);
    this.#watch = this.#options.setTimeout(() => {
      if (this.state !== "open") return;
      if (this.#probing) return this.#drop(this.#present, SILENT, "nothing heard");
      this.#probing = true;
      this.#listenFor(MARGIN);
    }, ms);
  }

  // The page

  #listen() {
    const on = (target, name, call) => {
      if (!target?.addEventListener) return;
      target.addEventListener(name, call);
      this.#unlisten.push(() => target.removeEventListener(name, call));
    };
    const { window, document } = this.#options;
    on(window, "offline", () => { this.#wasOffline = true; });
    on(window, "online", () => this.#wake());
    on(window, "pagehide", event => event.persisted && this.#suspend());
    on(window, "pageshow", event => event.persisted && this.#wake());
    on(document, "resume", () => this.#wake());
    on(document, "visibilitychange", () => document.visibilityState === "visible" && this.#wake());
  }

  /** Into the back/forward cache: a browser keeps no page there that has a connection open. */
  #suspend() {
    if (this.state === "closed" || this.#suspended) return;
    this.#suspended = true;
    this.#options.clearTimeout(this.#retry);
    this.#alone(PUT_AWAY, "the page is put away"); // not 1000: it may come back
    this.state = "waiting";
    this.#tell("lost", { code: null, reason: "the page is put away", delay: null });
  }

  /** The page is looked at again, runs again, or the network is back. */
  #wake() {
    const wasOffline = this.#wasOffline;
    this.#wasOffline = false;
    if (this.#suspended) {
      this.#suspended = false;
      this.#attempt = 0;
      this.#connect();
    } else if (this.state === "waiting" && this.#mayHurry && !this.#full) {
      this.#attempt = 0;
      this.#mayHurry = false;
      this.#options.clearTimeout(this.#retry);
      this.#retry = this.#options.setTimeout(() => this.#connect(), this.#options.random() * this.#pace.base);
    } else if (this.state === "open" && wasOffline && this.#v1 && !this.#options.url) {
      // Nobody can say whether the line still holds, and to find out takes a heartbeat.
      this.#options.setTimeout(() => this.#renew(), this.#options.random() * this.#pace.base);
    } else if (this.state === "open" && !this.#probing && this.#options.now() - this.#heardAt > this.#heartbeat) {
      this.#probing = true;
      this.#listenFor(MARGIN);
    }
  }

  /** Go over to a fresh connection, as in a move. */
  async #renew() {
    const before = this.#present;
    if (this.state !== "open" || this.#beside) return;
    try {
      const { backend, url } = await this.#discover();
      if (this.#present === before && this.state === "open" && !this.#beside) {
        this.#move({ backend, url, within_ms: this.#options.connectTimeout }, this.#options.now());
      }
    } catch { /* the network is not quite back: the silence will tell */ }
  }

  // The application

  #tellGaps(type, gaps) {
    for (const gap of gaps) {
      if (!gap) continue;
      this.#tell(type, gap);
      if (this.state !== "closed") this.#call("onGap", gap);
    }
  }

  #tell(type, event) {
    if (this.state !== "closed") this.#call("onEvent", { type, ...event });
  }

  #call(name, argument) {
    try {
      this.#options[name]?.(argument);
    } catch (error) { // the application's fault is not the connection's
      (globalThis.reportError ?? console.error)(error);
    }
  }
}

/**
 * The interface of ws4redis's own script, on top of realtime.js: the source of static/js/ws4redis.js, which holds both
 * (`python -m tests.js.bundle`). What a page sees is what it saw; what is new is behind it: it resumes where it was
 * (contract 5.3), moves without a break (8.3), and waits as the server says. docs/reference/ws4redis.md.
 */

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
function WS4Redis(options, $) {
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

return WS4Redis;
})();
