// The compatible interface over a network that is a script: what an old page sees, and what it does not.

import assert from "node:assert/strict";
import { test } from "node:test";
import { WS4Redis } from "../../legacy_ws4redis/ws4redis.js";
import { settle, Socket } from "./world.js";

class Page {
  now = 1_000_000;
  timers = new Map();
  sockets = [];
  calls = [];

  constructor(options = {}, make = options => new WS4Redis(options)) {
    const page = this;
    let timer = 0;
    const told = name => argument => this.calls.push(argument === undefined ? name : [name, argument]);
    this.socket4 = make({
      uri: "ws://legacy/ws/foobar?subscribe-user&publish-broadcast&echo",
      connecting: told("connecting"),
      connected: told("connected"),
      disconnected: event => this.calls.push(["disconnected", event.code]),
      receive_message: told("message"),
      realtime: {
        now: () => this.now,
        setTimeout: (call, ms) => { this.timers.set(++timer, { at: this.now + ms, call }); return timer; },
        clearTimeout: id => this.timers.delete(id),
        random: () => 0.5,
        WebSocket: class extends Socket { constructor(url, protocols) { super(url, protocols); page.sockets.push(this); } },
        window: new EventTarget(),
        document: new EventTarget(),
      },
      ...options,
    });
  }

  get socket() { return this.sockets.at(-1); }
  get frames() { return this.socket.frames; }

  /** Opens the last socket as one of our servers does. */
  open(topics = { user: ["e", 0] }, recovered = {}) {
    this.socket.shake();
    this.socket.ready(topics, recovered);
    return this.socket;
  }

  /** Turns the clock to the next timer but a watch, and runs it. */
  async next() {
    const [id, timer] = [...this.timers].sort(([, a], [, b]) => a.at - b.at)[0];
    this.timers.delete(id);
    this.now = Math.max(this.now, timer.at);
    timer.call();
    await settle();
  }

  take() { return this.calls.splice(0); }
}

async function opened(options, make) {
  const page = new Page(options, make);
  await settle();
  page.open();
  page.take();
  return page;
}

test("the callbacks come in their old order, the first before the constructor returns", async () => {
  const page = new Page();
  assert.deepEqual(page.take(), ["connecting"]);
  assert.equal(page.socket4.get_state(), 0);
  await settle();
  assert.equal(page.socket4.is_connecting(), true);
  page.open();
  assert.deepEqual(page.take(), ["connected"]);
  assert.equal(page.socket4.is_connected(), true);
  page.socket.end(1006);
  assert.deepEqual(page.take(), [["disconnected", 1006]]);
  assert.equal(page.socket4.is_closed(), true);
  await page.next();
  assert.deepEqual(page.take(), ["connecting"]);
});

test("it works as a function and as a constructor, with jQuery and without", async () => {
  for (const make of [options => WS4Redis(options), options => new WS4Redis(options, () => {})]) {
    const page = await opened({ uri: "ws://h/ws/a" }, make);
    assert.ok(page.socket4 instanceof WS4Redis);
    assert.equal(page.socket.url, "ws://h/ws/a?last");
  }
  assert.throws(() => new WS4Redis({}), /needs a uri/);
});

test("the address keeps its words, wherever a move leads", async () => {
  const page = await opened();
  assert.equal(page.socket.url, "ws://legacy/ws/foobar?subscribe-user&publish-broadcast&echo&last");
  assert.deepEqual(page.socket.protocols, ["realtime.v1", "ws4redis"]);
  const old = page.socket;
  old.msg(1, "before");
  old.move();
  await settle();
  assert.equal(page.socket.url, "ws://channels/ws/calls?subscribe-user&publish-broadcast&echo&last");
  page.open({ user: ["e", 1] }, { user: true });
  page.socket.msg(2, "after");
  assert.deepEqual(page.take(), [["message", '"before"'], ["message", '"after"']]); // and nothing of the move
  assert.ok(old.closed.ours);
});

test("what was missed is there after a loss, once", async () => {
  const page = await opened();
  page.socket.frame({ op: "msg", topic: "user", pos: ["e", 1], text: "one" });
  page.socket.end(1006);
  await page.next();
  page.socket.shake();
  assert.deepEqual(page.frames[0].resume, { user: ["e", 1] });
  page.socket.ready({ user: ["e", 3] }, { user: true });
  for (const seq of [2, 3]) page.socket.frame({ op: "msg", topic: "user", pos: ["e", seq], text: `${seq}` });
  assert.deepEqual(page.take().filter(([name]) => name === "message"), [["message", "one"], ["message", "2"], ["message", "3"]]);
});

test("messages have the kinds that a socket has", async () => {
  const page = await opened();
  page.socket.frame({ op: "msg", topic: "user", pos: null, text: "text" });
  page.socket.frame({ op: "msg", topic: "user", pos: ["e", 1], data: { a: [1, null] } });
  page.socket.frame({ op: "msg", topic: "user", pos: ["e", 2], b64: "AP8=" });
  const [text, json, [, blob]] = page.take();
  assert.deepEqual([text, json], [["message", "text"], ["message", '{"a":[1,null]}']]);
  assert.deepEqual(new Uint8Array(await blob.arrayBuffer()), new Uint8Array([0, 255]));
});

test("heartbeats are no messages", async () => {
  const page = await opened({ heartbeat_msg: "--heartbeat--" });
  page.socket.frame({ op: "msg", topic: "user", pos: ["e", 1], text: "--heartbeat--" });
  assert.deepEqual(page.take(), []);
});

test("it sends what a socket sends, at once and in order", async () => {
  const page = await opened();
  page.socket4.send_message("text");
  assert.deepEqual(page.frames.at(-1), { op: "send", id: 1, text: "text" }); // the page may leave in the next line
  page.socket4.send_message(new Uint8Array([0, 255]).buffer);
  page.socket4.send_message(new Blob(["blob"]));
  page.socket4.send_message(42);
  page.socket4.send_message("lone \ud800");
  while (page.frames.length < 6) await new Promise(setImmediate);
  assert.deepEqual(page.frames.slice(2).map(({ text, b64 }) => text ?? atob(b64)), ["\0\xff", "blob", "42", "lone \ufffd"]);
  page.socket4.send_message("at once again");
  assert.equal(page.frames.at(-1).text, "at once again");
});

test("while there is no connection, what is sent is lost as ever", async () => {
  const page = new Page();
  assert.throws(() => page.socket4.send_message("early"), { name: "InvalidStateError" });
  await settle();
  page.open();
  page.socket.end(1006);
  page.socket4.send_message("late");
  await page.next();
  page.open();
  assert.deepEqual(page.frames.map(frame => frame.op), ["hello"]);
});

test("close is the end, and says so", async () => {
  const page = await opened();
  page.socket4.close();
  assert.equal(page.socket4.is_closing(), true);
  page.socket4.close();
  assert.deepEqual(page.take(), []);
  await new Promise(resolve => setTimeout(resolve, 5));
  assert.deepEqual(page.take(), [["disconnected", 1005]]);
  assert.equal(page.socket4.is_closed(), true);
  assert.equal(page.timers.size, 0);
});

test("thrown out, it stays away", async () => {
  const page = await opened();
  page.socket.end(4500, "signed out");
  assert.deepEqual(page.take(), [["disconnected", 4500]]);
  assert.equal(page.timers.size, 0);
});

test("a page that wants to know is told what is missing", async () => {
  const missed = [];
  const page = await opened({ missed: gap => missed.push(gap.topic) });
  page.socket.frame({ op: "gap", topic: "user", pos: ["f", 3] });
  assert.deepEqual(missed, ["user"]);
});

// Beside processes that run the original

/** The browser breaks off: what the original answers is none of the two subprotocols. */
async function brokenOff(page) {
  assert.deepEqual(page.socket.protocols, ["realtime.v1", "ws4redis"]);
  page.socket.end(1006);
  await page.next();
}

async function raw(options) {
  const page = new Page(options);
  await settle();
  await brokenOff(page);
  const real = page.socket;
  assert.deepEqual(real.protocols, []);
  real.shake();
  assert.deepEqual(page.socket.protocols, ["realtime.v1", "ws4redis"]); // asked for once more
  page.take();
  return { page, real };
}

test("with the original server it speaks raw", async () => {
  const { page, real } = await raw({ heartbeat_msg: "--heartbeat--" });
  real.text("the last message");
  assert.deepEqual(page.take(), []);
  page.socket.end(1006);
  assert.deepEqual(page.take(), ["connected", ["message", "the last message"]]);
  real.text("text");
  real.text("--heartbeat--");
  assert.deepEqual(page.take(), [["message", "text"]]);
  page.socket4.send_message("mine");
  page.socket4.send_message(new Uint8Array([1]).buffer);
  assert.deepEqual(real.sent, ["mine", new Uint8Array([1])]); // and never a hello
  real.end(1006);
  assert.deepEqual(page.take(), [["disconnected", 1006]]);
  await page.next();
  assert.deepEqual(page.socket.protocols, ["realtime.v1", "ws4redis"]); // a new one may answer this time
});

test("a server that answers to both is spoken to in v1", async () => {
  const { page, real } = await raw();
  real.text("comes again");
  page.open({ user: ["e", 4] });
  page.socket.frame({ op: "msg", topic: "user", pos: null, text: "comes again" });
  assert.deepEqual(page.take(), ["connected", ["message", "comes again"]]);
  assert.ok(real.closed.ours);
});

test("a silent original is left after 20 s, where there are heartbeats", async () => {
  const { page, real } = await raw({ heartbeat_msg: "--heartbeat--" });
  page.socket.end(1006);
  real.text("--heartbeat--");
  const started = page.now;
  while (!real.closed) await page.next();
  assert.ok(page.now - started >= 20_000 && page.now - started <= 26_000, `${page.now - started}`);
});

test("with servers of ours, an outage does not end in raw", async () => {
  const page = await opened();
  page.socket.end(1006);
  const tried = [];
  for (let n = 0; n < 8; n++) {
    await page.next();
    tried.push(page.socket.protocols.length);
    page.socket.end(1006);
  }
  assert.deepEqual(tried, [2, 2, 2, 0, 2, 2, 2, 0]); // now and then: it may be that only originals are left
});
