import assert from "node:assert/strict";
import test from "node:test";

import { RealtimeClient } from "../../shim/static/realtime/realtime.js";
import { World, settle } from "./world.js";

test("discovery, hello, ready: open", async () => {
  const world = new World({ params: ["subscribe-user"], positions: { user: ["e", 4] } });
  await settle();
  assert.equal(world.asked[0].url, "/realtime/endpoint?facility=calls");
  assert.equal(world.asked[0].init.credentials, "include");
  assert.equal(world.socket.url, "ws://legacy/ws/calls?subscribe-user");
  assert.deepEqual(world.socket.protocols, ["realtime.v1"]);
  world.socket.shake();
  assert.deepEqual(world.socket.frames, [{ op: "hello", resume: { user: ["e", 4] } }]);
  world.socket.ready({ user: ["e", 5] }, { user: true });
  assert.equal(world.client.state, "open");
  assert.equal(await world.client.opened, world.client);
  assert.deepEqual(world.client.positions, { user: ["e", 4] }); // what was missed follows
  world.socket.msg(5);
  assert.deepEqual(world.values(), [5]);
  assert.deepEqual(world.gaps, []);
});

test("kinds and values arrive as sent (contract 4.1)", async () => {
  const world = new World();
  const socket = await world.open();
  const rest = { op: "msg", topic: "user" };
  socket.frame({ ...rest, pos: ["e", 1], data: { a: [null, "\u0000é"] } });
  socket.frame({ ...rest, pos: ["e", 2], text: "" });
  socket.frame({ ...rest, pos: ["e", 3], b64: "AP8=" });
  socket.frame({ op: "msg", topic: null, pos: null, data: null });
  assert.deepEqual(world.messages, [
    { topic: "user", position: ["e", 1], kind: "json", value: { a: [null, "\u0000é"] } },
    { topic: "user", position: ["e", 2], kind: "text", value: "" },
    { topic: "user", position: ["e", 3], kind: "binary", value: new Uint8Array([0, 255]) },
    { topic: null, position: null, kind: "json", value: null },
  ]);
});

test("an own message is its position alone (contract 6.5)", async () => {
  const world = new World();
  const socket = await world.open();
  socket.frame({ op: "skip", topic: "user", pos: ["e", 1] });
  socket.frame({ op: "skip", topic: "user", pos: ["e", 1] });
  socket.msg(2);
  assert.deepEqual(world.values(), [2]);
  assert.deepEqual([world.client.counters.holes, world.client.counters.duplicates, world.client.counters.received], [0, 1, 1]);
  socket.frame({ op: "skip", topic: "user", pos: ["e", 4] });
  assert.deepEqual(world.client.positions, { user: ["e", 4] });
  assert.deepEqual(world.gaps, [{ topic: "user", position: ["e", 4], known: ["e", 2] }]);
  socket.frame({ op: "skip", topic: "group:a", pos: ["e", 1] });
  assert.match(world.event("protocolError").reason, /did not name/);
});

test("hello says which connection it continues: the last one that was ready", async () => {
  const world = new World();
  (await world.open()).end(1006);
  for (let n = 0; n < 2; n++) {
    await world.pass(world.delay);
    world.socket.shake();
    assert.equal(world.socket.frames[0].was, "c");
    world.socket.end(1006);
  }
  await world.pass(world.delay);
  world.socket.shake();
  world.socket.ready({ user: ["e", 0] }, {}, { connection: "d" });
  world.socket.end(1006);
  await world.pass(world.delay);
  world.socket.shake();
  assert.equal(world.socket.frames[0].was, "d");
});

test("what is sent: kinds, acks, refusals (contract 6.1, 6.3)", async () => {
  const world = new World();
  const socket = await world.open();
  const sent = [world.client.send("é"), world.client.send(new Uint8Array([0, 255])), world.client.send({ a: 1 }), world.client.send("x", { json: true })];
  assert.deepEqual(socket.frames.slice(1), [
    { op: "send", id: 1, text: "é" }, { op: "send", id: 2, b64: "AP8=" }, { op: "send", id: 3, data: { a: 1 } }, { op: "send", id: 4, data: "x" },
  ]);
  socket.frame({ op: "ack", id: 1 });
  await sent[0];
  socket.frame({ op: "error", id: 2, code: "forbidden", reason: "no" });
  await assert.rejects(sent[1], { name: "RealtimeError", code: "forbidden" });
  socket.end(1006);
  await assert.rejects(sent[2], /the connection ended: 1006/);
  await assert.rejects(world.client.send("x"), /not connected/);
});

test("an answer that does not come is a time-out", async () => {
  const world = new World();
  await world.open();
  const sent = world.client.send(1, { timeout: 300 });
  await world.pass(301);
  await assert.rejects(sent, /no answer to message 1 within 300 ms/);
});

test("what cannot be carried is refused, and nothing is sent (contract 4.2)", async () => {
  const world = new World({ maxMessageBytes: 10 });
  const socket = await world.open();
  for (const value of [NaN, { a: Infinity }, "\ud800", ["\udc00"], { "\ud800": 1 }, undefined, 1n, "éééééé"]) {
    await assert.rejects(world.client.send(value));
  }
  await world.client.send("ééééé", { ack: false });
  assert.equal(socket.sent.length, 2);
  socket.bufferedAmount = 2 ** 24;
  await assert.rejects(world.client.send("x"), /too much is under way/);
});

for (const code of [1000, 1002, 1003, 1007, 1008, 1009, 4500, 4503, 4999]) {
  test(`${code}: stays away`, async () => {
    const world = new World();
    (await world.open()).end(code, "because");
    assert.equal(world.client.state, "closed");
    assert.equal(world.client.error.code, code);
    await world.pass(1e6);
    assert.equal(world.sockets.length, 1);
    assert.equal(world.timers.size, 0);
  });
}

for (const code of [1001, 1005, 1006, 1011, 1013, 4001, 4002, 4003, 4499]) {
  test(`${code}: comes back with full jitter, and resumes`, async () => {
    const world = new World();
    const socket = await world.open({ user: ["e", 0] }, { reconnect: { base_ms: 200, cap_ms: 1000, spread_ms: 9 } });
    socket.msg(1);
    socket.end(code);
    const delays = [world.delay];
    for (let i = 0; i < 4; i++) {
      await world.pass(world.delay);
      world.socket.end(1006);
      delays.push(world.delay);
    }
    assert.deepEqual(delays, [100, 200, 400, 500, 500]);
    await world.pass(500);
    world.socket.shake();
    assert.deepEqual(world.socket.frames[0].resume, { user: ["e", 1] });
    assert.equal(world.count("connected"), 1);
  });
}

test("1012: within the spread that was told (contract 8.5)", async () => {
  const world = new World();
  const socket = await world.open({}, { reconnect: { spread_ms: 3000 } });
  await world.pass(11_000);
  socket.end(1012);
  assert.equal(world.delay, 1500);
  await world.pass(1500);
  world.socket.shake();
  world.socket.ready({}, {}, { reconnect: { spread_ms: 0 } });
  world.socket.end(1012); // sent on again and again: no spin
  await world.pass(0);
  world.socket.shake();
  world.socket.ready({});
  world.socket.end(1012);
  assert.ok(world.delay > 0);
});

test("what a server tells about coming back is bounded", async () => {
  const world = new World();
  const socket = await world.open({}, { reconnect: { base_ms: 0, cap_ms: 1e15, spread_ms: "soon" } });
  socket.end(1006);
  assert.equal(world.delay, 5);
});

test("a refused discovery: 4xx is the end, 503 waits as long as it was told", async () => {
  const gone = new World();
  gone.endpoint = { status: 404 };
  await assert.rejects(gone.client.opened, { code: 404 });
  assert.equal(gone.client.state, "closed");
  const busy = new World();
  busy.endpoint = { status: 503, headers: { "Retry-After": "7" } };
  await settle();
  assert.equal(busy.delay, 7250);
  const down = new World();
  down.endpoint = new Error("no network");
  await settle();
  assert.equal(down.delay, 250);
});

test("steps that take too long are given up", async () => {
  const silent = new World({ fetch: () => new Promise(() => {}) });
  await silent.pass(10_001);
  assert.match(silent.event("lost").reason, /no answer from/);
  const shaking = new World();
  await shaking.pass(10_001);
  assert.equal(shaking.socket.closed.reason, "not ready in time");
  const greeting = new World();
  await settle();
  greeting.socket.shake();
  await greeting.pass(10_001);
  assert.equal(greeting.socket.closed.code, 4002);
  assert.equal(greeting.client.state, "waiting");
});

test("a ping is answered; silence ends the connection, once it is certain (contract 7.1)", async () => {
  const world = new World();
  const socket = await world.open();
  for (let i = 0; i < 5; i++) {
    await world.pass(25_000);
    socket.frame({ op: "ping" });
  }
  assert.equal(socket.frames.filter(frame => frame.op === "pong").length, 5);
  await world.pass(37_900);
  assert.equal(world.client.state, "open");
  await world.pass(200);
  assert.equal(socket.closed.code, 4002);
  assert.equal(world.client.state, "waiting");
});

test("a page that was frozen does not take its own absence for silence", async () => {
  const world = new World();
  const socket = await world.open();
  world.now += 3_600_000; // nothing ran; then the timer runs before what came meanwhile is seen
  await world.pass(1);
  assert.equal(world.client.state, "open");
  socket.msg(1);
  await world.pass(20_000);
  assert.equal(world.client.state, "open");
});

test("awake again, with a line that is dead: given up soon", async () => {
  const world = new World();
  await world.open();
  world.now += 30_000;
  world.document.dispatchEvent(new Event("resume"));
  await world.pass(5_001);
  assert.equal(world.client.state, "waiting");
});

test("the network is back, or the page is looked at: no waiting for long", async () => {
  for (const [target, name] of [["window", "online"], ["document", "visibilitychange"], ["document", "resume"]]) {
    const world = new World();
    world.endpoint = new Error("no network");
    await world.pass(100_000);
    assert.ok(world.delay > 10_000);
    world.endpoint = { backend: "legacy", url: "ws://legacy/ws/calls" };
    world[target].dispatchEvent(new Event(name));
    await world.pass(250);
    assert.equal(world.sockets.length, 1);
  }
});

test("what a server asked for is waited for all the same", async () => {
  const world = new World();
  const socket = await world.open({}, { reconnect: { spread_ms: 20_000 } });
  await world.pass(11_000);
  socket.end(1012);
  world.window.dispatchEvent(new Event("online"));
  await world.pass(9_999);
  assert.equal(world.sockets.length, 1);
  await world.pass(1);
  assert.equal(world.sockets.length, 2);
});

test("offline and online while open: over to a fresh connection, as in a move", async () => {
  const world = new World();
  const old = await world.open();
  world.window.dispatchEvent(new Event("offline"));
  world.window.dispatchEvent(new Event("online"));
  await world.pass(500);
  assert.equal(world.sockets.length, 2);
  old.msg(1);
  world.socket.shake();
  world.socket.ready({ user: ["e", 1] }, { user: true });
  world.socket.msg(1);
  world.socket.msg(2);
  assert.deepEqual(world.values(), [1, 2]);
  assert.equal(old.closed.code, 1000);
});

test("into the back/forward cache and out of it", async () => {
  const world = new World();
  const old = await world.open();
  old.msg(1);
  world.window.dispatchEvent(Object.assign(new Event("pagehide"), { persisted: true }));
  assert.equal(old.closed.code, 4401); // not for good: its facility keeps what it knows
  await world.pass(1e6);
  assert.equal(world.sockets.length, 1);
  world.window.dispatchEvent(Object.assign(new Event("pageshow"), { persisted: true }));
  await settle();
  world.socket.shake();
  assert.deepEqual(world.socket.frames[0].resume, { user: ["e", 1] });
});

test("what a server cannot rightly say: dropped, and resumed from what was certain", async () => {
  const wrongs = [
    "{", "[]", "1", new ArrayBuffer(2), '{"op":"msg","topic":"user","pos":["e",1]}', '{"op":"msg","topic":"user","data":1}',
    '{"op":"msg","topic":"user","pos":["",1],"data":1}', '{"op":"msg","topic":"other","pos":["e",1],"data":1}',
    '{"op":"msg","topic":"user","pos":["f",1],"data":1}', '{"op":"msg","topic":"user","pos":["e",1],"b64":"!"}',
    '{"op":"gap","topic":"user","pos":["e",-1]}', '{"op":"ready","connection":"c","backend":"b","topics":{}}',
  ];
  for (const wrong of wrongs) {
    const world = new World();
    const socket = await world.open();
    socket.text(wrong);
    assert.equal(socket.closed.code, 4400, String(wrong));
    assert.equal(world.client.counters.protocolErrors, 1);
    assert.deepEqual(world.messages, []);
    await world.pass(1000);
    assert.equal(world.sockets.length, 2);
  }
});

test("an op that is not known is passed over", async () => {
  const world = new World();
  const socket = await world.open();
  socket.frame({ op: "weather", is: "fine" });
  socket.msg(1);
  assert.deepEqual(world.values(), [1]);
});

test("a server that does not speak v1", async () => {
  const world = new World();
  await settle();
  world.socket.shake("");
  assert.match(world.socket.closed.reason, /does not speak|ws:/);
  assert.equal(world.client.state, "waiting");
});

test("gaps: not recovered, a new epoch, said by the server; holes", async () => {
  const world = new World();
  const socket = await world.open();
  socket.msg(1);
  socket.frame({ op: "gap", topic: "user", pos: ["e", 9] });
  socket.msg(10);
  socket.msg(12);
  assert.deepEqual(world.gaps, [{ topic: "user", position: ["e", 9], known: ["e", 1] }, { topic: "user", position: ["e", 12], known: ["e", 10] }]);
  socket.end(1006);
  await world.pass(1000);
  world.socket.shake();
  world.socket.ready({ user: ["f", 3] }, { user: false });
  assert.deepEqual(world.gaps.at(-1), { topic: "user", position: ["f", 3], known: ["e", 12] });
  assert.deepEqual(world.client.positions, { user: ["f", 3] });
  assert.deepEqual([world.client.counters.gaps, world.client.counters.holes], [2, 1]);
});

test("what the application throws is its own affair", async () => {
  const said = [];
  globalThis.reportError = error => said.push(error.message);
  const world = new World({ onMessage: () => { throw new Error("mine"); } });
  const socket = await world.open();
  socket.msg(1);
  socket.msg(2);
  delete globalThis.reportError;
  assert.deepEqual(said, ["mine", "mine"]);
  assert.equal(world.client.state, "open");
});

test("closing: in every state, from every callback, and nothing comes after", async () => {
  for (const when of ["connecting", "connected", "lost", "moving", "moved"]) {
    const world = new World({ onEvent: event => { world.events.push(event); if (event.type === when) world.client.close(); } });
    await settle();
    if (world.socket) {
      world.socket.shake();
      world.socket.ready({ user: ["e", 0] });
      world.socket.move();
      const [old] = world.sockets;
      world.sockets[1]?.shake();
      world.sockets[1]?.ready({ user: ["e", 0] });
      world.live.at(-1)?.end(1006);
      old.msg(1);
    }
    assert.equal(world.client.state, "closed", when);
    assert.equal(world.events.at(-1).type, "closed");
    assert.deepEqual(world.messages, []);
    assert.equal(world.live.length, 0, when);
    await world.pass(1e6);
    assert.equal(world.timers.size, 0, when);
  }
});

test("raw: bare payloads, the text heartbeat is no message, 1012 leads to discovery (contract 8.4)", async () => {
  const world = new World({ protocol: "raw" });
  await settle();
  assert.equal(world.socket.url, "ws://legacy/ws/calls?heartbeat");
  assert.deepEqual(world.socket.protocols, []);
  world.socket.shake();
  assert.equal(world.client.state, "open");
  world.socket.text("--heartbeat--");
  world.socket.text('{"a":1}');
  world.socket.text(new Uint8Array([1]).buffer);
  assert.deepEqual(world.messages.map(({ kind, value }) => [kind, value]), [["text", '{"a":1}'], ["binary", new Uint8Array([1])]]);
  await world.client.send({ b: 2 });
  assert.deepEqual(world.socket.sent, ['{"b":2}']);
  world.socket.end(1012);
  world.endpoint = { backend: "channels", url: "ws://channels/ws/calls" };
  await world.pass(5000);
  assert.equal(world.socket.url, "ws://channels/ws/calls?heartbeat");
});

test("iterating: in order, ends at close, throws when the client gives up", async () => {
  const world = new World({ onMessage: undefined });
  const socket = await world.open();
  socket.msg(1);
  const taken = [];
  const loop = (async () => { for await (const { value } of world.client) taken.push(value); })();
  await settle();
  socket.msg(2);
  await settle();
  world.client.close();
  await loop;
  assert.deepEqual(taken, [1, 2]);
  const out = new World({ onMessage: undefined });
  (await out.open()).end(4500, "signed out");
  await assert.rejects(async () => { for await (const _ of out.client); }, { code: 4500 });
});

test("iterating too slowly: bounded, and nothing is lost", async () => {
  const world = new World({ onMessage: undefined, buffer: 4 });
  const socket = await world.open();
  for (let seq = 1; seq <= 9; seq++) socket.msg(seq);
  assert.equal(socket.closed.code, 4001);
  await world.pass(60_000);
  assert.equal(world.sockets.length, 1); // there is no room
  const taken = [];
  for (let i = 0; i < 3; i++) taken.push((await world.client.next()).value.value);
  await settle();
  world.socket.shake();
  assert.deepEqual(world.socket.frames[0].resume, { user: ["e", 4] });
  world.socket.ready({ user: ["e", 9] }, { user: true });
  world.socket.msg(5);
  world.socket.msg(6);
  for (let i = 0; i < 3; i++) taken.push((await world.client.next()).value.value);
  assert.deepEqual(taken, [1, 2, 3, 4, 5, 6]);
});

test("options that contradict each other", () => {
  for (const options of [{}, { facility: "a", url: "ws://b" }, { facility: "a", protocol: "v2" }, { facility: "a", WebSocket: null }]) {
    assert.throws(() => new RealtimeClient({ WebSocket: class {}, ...options }), TypeError);
  }
});
