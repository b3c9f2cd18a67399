import assert from "node:assert/strict";
import test from "node:test";

import { World, settle } from "./world.js";

/** A client that was told to move; the new connection has shaken hands and asked. */
async function crossing(options) {
  const world = new World(options);
  const old = await world.open();
  old.msg(1);
  old.move();
  const fresh = world.socket;
  fresh.shake();
  return { world, old, fresh };
}

test("make before break (contract 8.3)", async () => {
  const { world, old, fresh } = await crossing();
  assert.deepEqual(fresh.frames, [{ op: "hello", resume: { user: ["e", 1] }, was: "c" }]);
  old.msg(2);
  assert.equal(old.closed, null);
  fresh.ready({ user: ["e", 2] }, { user: true });
  assert.equal(old.closed.code, 1000);
  assert.equal(world.client.backend, "channels");
  fresh.msg(2); // came by the old one
  fresh.msg(3);
  assert.deepEqual(world.values(), [1, 2, 3]);
  assert.equal(world.client.counters.duplicates, 0); // it was expected
  assert.deepEqual(world.events.map(({ type }) => type), ["connecting", "connected", "moving", "moved"]);
});

test("the old connection is kept for the answers that it owes", async () => {
  const { world, old, fresh } = await crossing();
  const sent = world.client.send("hello");
  fresh.ready({ user: ["e", 1] }, { user: true });
  assert.equal(old.closed, null);
  const later = world.client.send("more"); // by the new one
  old.msg(2); // the new connection brings it
  assert.deepEqual(world.values(), [1]);
  fresh.msg(2);
  old.frame({ op: "ack", id: 1 });
  await sent;
  assert.equal(old.closed.code, 1000);
  fresh.frame({ op: "ack", id: 2 });
  await later;
  assert.deepEqual(world.values(), [1, 2]);
});

test("an answer that does not come keeps the old connection until the deadline", async () => {
  const { world, old, fresh } = await crossing();
  const sent = world.client.send("hello");
  fresh.ready({ user: ["e", 1] }, { user: true });
  await world.pass(3999);
  assert.equal(old.closed, null);
  await world.pass(1);
  assert.equal(old.closed.code, 1000);
  await assert.rejects(sent, /left before the answer/);
  assert.equal(world.client.state, "open");
});

test("a move that fails: the client stays, and says so", async () => {
  for (const fail of [
    ({ fresh }) => fresh.end(1006),
    ({ fresh }) => fresh.end(4500),
    ({ fresh }) => fresh.text("{"),
    ({ fresh }) => fresh.msg(7),
    ({ world }) => world.pass(4000),
  ]) {
    const all = await crossing();
    await fail(all);
    assert.equal(all.world.count("moveFailed"), 1);
    assert.equal(all.world.client.state, "open");
    assert.ok(all.fresh.closed);
    all.old.msg(2);
    assert.deepEqual(all.world.values(), [1, 2]);
    all.old.move();
    assert.equal(all.world.live.length, 2); // it may try again
  }
});

test("a move is no sign of trouble: who was connected for long begins its backoff anew", async () => {
  const world = new World();
  for (let i = 0; i < 5; i++) {
    await settle();
    world.socket.end(1006);
    await world.pass(world.delay);
  }
  const old = await world.open();
  await world.pass(9_000);
  old.move();
  world.socket.shake();
  world.socket.ready({ user: ["e", 0] }, { user: true });
  await world.pass(1_000);
  world.socket.end(1006);
  assert.equal(world.delay, 250);
});

test("from wss only to wss", async () => {
  const world = new World();
  world.endpoint.url = "wss://legacy/ws/calls";
  const old = await world.open();
  old.move();
  assert.match(world.event("moveFailed").reason, /wss/);
  assert.equal(world.sockets.length, 1);
});

test("the old connection ends first: the new one goes as well, and discovery decides", async () => {
  const { world, old, fresh } = await crossing();
  old.end(1012);
  assert.ok(fresh.closed);
  assert.equal(world.client.state, "waiting");
  await world.pass(5000);
  assert.equal(world.asked.length, 2);
  world.socket.shake();
  assert.deepEqual(world.socket.frames[0].resume, { user: ["e", 1] });
});

test("told again while under way: one move; while leaving: one after the other, never three connections", async () => {
  const { world, old, fresh } = await crossing();
  old.move();
  assert.equal(world.sockets.length, 2);
  world.client.send(1);
  fresh.ready({ user: ["e", 1] }, { user: true });
  fresh.frame({ op: "move", backend: "legacy", url: "ws://legacy/ws/calls", within_ms: 4000 });
  assert.equal(world.sockets.length, 2);
  old.frame({ op: "ack", id: 1 });
  assert.equal(world.live.length, 2);
  world.socket.shake();
  world.socket.ready({ user: ["e", 1] }, { user: true });
  assert.equal(world.client.backend, "legacy");
  assert.equal(world.client.counters.moved, 2);
});

test("what is not kept comes at most once, by the new connection when it has been asked", async () => {
  const { world, old, fresh } = await crossing();
  const unkept = data => ({ op: "msg", topic: "user", pos: null, data });
  old.frame(unkept("a"));
  fresh.ready({ user: ["e", 1] }, { user: true });
  fresh.frame(unkept("a"));
  old.frame(unkept("b"));
  assert.deepEqual(world.values(), [1, "a"]);
});

test("not recovered there, but covered here: no gap", async () => {
  const { world, old, fresh } = await crossing();
  old.msg(2);
  old.msg(3);
  fresh.ready({ user: ["e", 3] }, { user: false });
  assert.deepEqual(world.gaps, []);
  fresh.msg(4);
  assert.deepEqual(world.values(), [1, 2, 3, 4]);
});

// Random lives: a log for each topic, two servers that lag behind it, moves, losses, trims. What the client hands on is
// a subsequence of the log without repetition, and whatever is left out lies in a gap that was told (contract 3.1, 5.3).

function dice(seed) { // mulberry32
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Messages that the client itself has caused: the server sends their positions alone (contract 6.5). */
const isOwn = (topic, seq) => (seq + topic.length) % 5 === 0;

class Life {
  topics = ["user", "everyone", "group:a"];
  last = Object.fromEntries(this.topics.map(topic => [topic, 0]));
  trimmed = Object.fromEntries(this.topics.map(topic => [topic, 0])); // history begins after it
  answered = new Map(); // socket → how many sends
  served = new Map(); // socket → what it has sent, by topic; before that it has not greeted

  constructor(seed) {
    this.random = dice(seed);
    this.world = new World();
    this.world.chance = this.random;
  }

  pick(list) { return list[Math.floor(this.random() * list.length)]; }

  publish() { this.last[this.pick(this.topics)]++; }

  trim() {
    const topic = this.pick(this.topics);
    this.trimmed[topic] = Math.floor(this.random() * (this.last[topic] + 1));
  }

  /** One step of a server for one connection: shake hands, be ready, or send the next message of some topic. */
  serve(socket) {
    if (!socket.sent.length) return socket.shake();
    const asked = socket.frames.filter(({ op }) => op === "send").map(({ id }) => id);
    const answered = this.answered.get(socket) ?? 0;
    if (asked.length > answered && this.random() < 0.3) {
      this.answered.set(socket, answered + 1);
      return socket.frame({ op: "ack", id: asked[answered] });
    }
    if (!this.served.has(socket)) {
      const { resume } = socket.frames[0], recovered = {}, sent = {}, topics = {};
      for (const topic of this.topics) {
        topics[topic] = ["e", this.last[topic]];
        sent[topic] = this.last[topic];
        if (!resume[topic]) continue;
        recovered[topic] = resume[topic][1] >= this.trimmed[topic];
        if (recovered[topic]) sent[topic] = resume[topic][1];
      }
      this.served.set(socket, sent);
      return socket.ready(topics, recovered, { heartbeat: 600 });
    }
    const sent = this.served.get(socket);
    const topic = this.pick(this.topics);
    if (sent[topic] >= this.last[topic]) return;
    const seq = ++sent[topic];
    if (isOwn(topic, seq)) socket.frame({ op: "skip", topic, pos: ["e", seq] });
    else socket.msg(seq, `${topic} ${seq}`, topic);
  }

  step() {
    const { live } = this.world, socket = live.length ? this.pick(live) : null, chance = this.random();
    if (chance < 0.3) this.publish();
    else if (chance < 0.32) this.trim();
    else if (!socket) return this.world.pass(5_000);
    else if (chance < 0.34) socket.end(this.pick([1006, 1012, 1011, 4001]));
    else if (chance < 0.42 && this.served.has(socket)) socket.move(60_000);
    else if (chance < 0.46) this.world.client.send(0);
    else this.serve(socket);
  }

  async run(steps) {
    await settle();
    for (let n = 0; n < steps; n++) {
      await this.step();
      if (this.world.live.length > 2) throw new Error("three connections");
    }
    for (let n = 0; n < 2000 && !this.isThrough(); n++) { // nothing happens any more: all of it arrives
      const { live } = this.world;
      if (live.length) live.forEach(socket => this.serve(socket));
      else await this.world.pass(5_000);
    }
  }

  isThrough() {
    const { positions } = this.world.client;
    return this.topics.every(topic => positions[topic]?.[1] === this.last[topic]);
  }
}

test("random lives: nothing lost, doubled or out of order through moves, losses and trims", async () => {
  let moved = 0, dropped = 0, gaps = 0;
  for (let seed = 1; seed <= 60; seed++) {
    const life = new Life(seed);
    await life.run(250);
    const { world } = life, why = `seed ${seed}`;
    assert.ok(life.isThrough(), why);
    assert.deepEqual([world.client.counters.protocolErrors, world.client.counters.holes, world.client.counters.duplicates], [0, 0, 0], why);
    for (const topic of life.topics) {
      const seqs = world.messages.filter(each => each.topic === topic).map(each => each.position[1]);
      assert.deepEqual(seqs, [...new Set(seqs)].sort((a, b) => a - b), why);
      const missing = new Set(Array.from({ length: life.last[topic] }, (_, i) => i + 1).filter(seq => !isOwn(topic, seq)));
      assert.ok(!seqs.some(seq => isOwn(topic, seq)), why); // contract 6.5
      seqs.forEach(seq => missing.delete(seq));
      const first = world.event("connected") && world.events.find(({ type }) => type === "connected").topics[topic][1];
      for (const seq of missing) {
        const told = world.gaps.some(gap => gap.topic === topic && gap.known[1] < seq && seq <= gap.position[1]);
        assert.ok(seq <= first || told, `${why}: ${topic} ${seq} is missing, and nobody said so`);
      }
    }
    moved += world.client.counters.moved;
    dropped += world.client.counters.losses;
    gaps += world.gaps.length;
    world.client.close();
  }
  assert.ok(moved > 60 && dropped > 60 && gaps > 5, `${moved} moves, ${dropped} losses, ${gaps} gaps`); // it was a test
});

test("random servers that repeat, leave out and go back: never a duplicate, never out of order, never silent", async () => {
  let holes = 0, duplicates = 0;
  for (let seed = 1; seed <= 60; seed++) {
    const random = dice(seed), world = new World();
    world.chance = random;
    await settle();
    for (let n = 0; n < 80; n++) {
      const live = world.live, socket = live[Math.floor(random() * live.length)];
      if (!socket) { await world.pass(60_000); continue; }
      const chance = random();
      if (!socket.sent.length) socket.shake();
      else if (chance < 0.15) socket.ready({ user: ["e", Math.floor(random() * 20)] }, { user: random() < 0.7 }, { heartbeat: 600 });
      else if (chance < 0.2) socket.move();
      else if (chance < 0.25) socket.frame({ op: "gap", topic: "user", pos: ["e", Math.floor(random() * 30)] });
      else socket.msg(Math.floor(random() * 30), 0);
    }
    // Between two `ready` that go back, positions only rise; what is skipped was told.
    let known = null;
    const told = [...world.gaps];
    for (const { position } of world.messages) {
      if (known && position[1] <= known[1]) {
        const back = told.findIndex(gap => gap.position[1] < position[1] && gap.known && gap.known[1] >= gap.position[1]);
        assert.notEqual(back, -1, `seed ${seed}: ${position} after ${known}`);
      }
      known = position;
    }
    holes += world.client.counters.holes;
    duplicates += world.client.counters.duplicates;
    world.client.close();
    assert.equal(world.live.length, 0);
  }
  assert.ok(holes > 50 && duplicates > 50, `${holes} holes, ${duplicates} duplicates`);
});
