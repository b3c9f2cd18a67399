/** Where a message stands in its topic (contract, "Words"). */
export type Position = readonly [epoch: string, seq: number];
export type Positions = Record<string, Position>;

/** One message. `topic` and `position` are null on raw, and for what a handler sends to this connection alone. */
export type Message = { readonly topic: string | null; readonly position: Position | null } & (
  | { readonly kind: "json"; readonly value: unknown }
  | { readonly kind: "text"; readonly value: string }
  | { readonly kind: "binary"; readonly value: Uint8Array }
);

/** Messages between `known` and `position` are missing, and will not come: fetch the state anew (contract 7.4). */
export interface Gap {
  readonly topic: string;
  readonly position: Position;
  readonly known: Position | null;
}

/** What `ready` said. Absent on raw. */
interface Ready {
  readonly backend: string | null;
  readonly url: string;
  readonly connection?: string;
  readonly topics?: Record<string, Position | null>;
  readonly recovered?: Record<string, boolean>;
}

export type RealtimeEvent =
  | { readonly type: "connecting"; readonly attempt: number }
  | ({ readonly type: "connected" } & Ready)
  /** The server sends us to another backend; `within` is in milliseconds. */
  | { readonly type: "moving"; readonly backend: string; readonly url: string; readonly within: number }
  /** The other connection is the present one now. Also after the network was away, then perhaps on the same backend. */
  | ({ readonly type: "moved" } & Ready)
  | { readonly type: "moveFailed"; readonly backend: string; readonly reason: string }
  /** No connection. `delay`: milliseconds until the next attempt; null while the page is put away. */
  | { readonly type: "lost"; readonly code: number | null; readonly reason: string; readonly delay: number | null }
  | ({ readonly type: "gap" } & Gap)
  /** Messages were left out without a `gap`: a fault of the server. */
  | ({ readonly type: "hole" } & Gap)
  /** The server did not take something that was sent. */
  | { readonly type: "error"; readonly id: number | string | null; readonly code: string; readonly reason: string }
  /** The server said something that cannot be right: the connection is given up, and the client resumes. */
  | { readonly type: "protocolError"; readonly reason: string; readonly data: string }
  /** The end. `error` is null after `close()`. */
  | { readonly type: "closed"; readonly code: number | null; readonly reason: string; readonly error: RealtimeError | null };

export interface RealtimeOptions {
  /** Which facility to connect to; with `url` there is none. */
  facility?: string;
  /** The discovery endpoint; "/realtime/endpoint". Asked before each connection, with credentials. */
  endpoint?: string;
  /** A fixed address instead of discovery; a move leads away from it all the same. */
  url?: string;
  /** "v1" (positions, resume, moves, acks), or "raw" (bare payloads, nothing resumed); "v1". */
  protocol?: "v1" | "raw";
  /** Words for the address's query, URL-encoded: `["subscribe-user"]`. */
  params?: readonly string[];
  /** Where to continue: `positions` of an earlier client (contract 5.3). */
  positions?: Positions;
  /** Changes an address before it is connected to. */
  address?: (url: string) => string;
  /** Called with each message, in order, each once. Leave it out to iterate over the client. */
  onMessage?: (message: Message) => void;
  /** Called when messages are missing. */
  onGap?: (gap: Gap) => void;
  /** Called with everything else that happens. */
  onEvent?: (event: RealtimeEvent) => void;
  /** Milliseconds for each step of an attempt: discovery, handshake, `ready`; 10,000. */
  connectTimeout?: number;
  /** Bytes of the largest message that is sent; 1 MiB. */
  maxMessageBytes?: number;
  /** When iterating, how many messages may wait; at more the connection is given up until there is room; 10,000. */
  buffer?: number;
  /** For tests, and where a platform has none. `now` is in milliseconds, and goes on while a machine sleeps. */
  WebSocket?: unknown;
  fetch?: (url: string, init: RequestInit) => Promise<Response>;
  random?: () => number;
  now?: () => number;
  setTimeout?: (call: () => void, ms: number) => unknown;
  clearTimeout?: (timer: unknown) => void;
  window?: unknown;
  document?: unknown;
}

export interface SendOptions {
  /** A string or bytes as JSON rather than as text or binary. */
  json?: boolean;
  /** Wait for the facility's handler; true. */
  ack?: boolean;
  /** Milliseconds to wait for it; 10,000. */
  timeout?: number;
}

export interface Counters {
  received: number;
  duplicates: number;
  holes: number;
  gaps: number;
  connects: number;
  losses: number;
  movesTold: number;
  moved: number;
  movesFailed: number;
  protocolErrors: number;
}

/** `code` is a close code, an HTTP status, or a word of the server's `error` frame. */
export class RealtimeError extends Error {
  constructor(message: string, code?: number | string | null);
  readonly code: number | string | null;
}

/** One client over all of its connections; it begins by itself, and goes on until `close()` or a reason to stay away. */
export class RealtimeClient implements AsyncIterable<Message> {
  constructor(options: RealtimeOptions);
  readonly state: "connecting" | "greeting" | "open" | "waiting" | "closed";
  readonly backend: string | null;
  readonly url: string;
  /** The server's id of the present or last connection. */
  readonly connection: string | null;
  /** Why the client has given up; null while it has not, and after `close()`. */
  readonly error: RealtimeError | null;
  readonly counters: Readonly<Counters>;
  /** Of each topic, the last message handed on, or what the server told. */
  readonly positions: Positions;
  /** Resolves when the first connection stands; rejects when the client ends before. */
  readonly opened: Promise<RealtimeClient>;
  /**
   * Sends a string (text), bytes (binary) or anything else (JSON).
   *
   * Resolves when the facility's handler has taken it; on raw, and with `ack: false`, at once. Rejects with a
   * `RealtimeError` when it was refused, or when nobody can know: not connected, the connection ended, no answer.
   */
  send(value: unknown, options?: SendOptions): Promise<void>;
  /** The next message; without `onMessage` only. */
  next(): Promise<IteratorResult<Message, undefined>>;
  /** Ends at `close()`, throws when the client gives up. Leaving a loop leaves the client open. */
  [Symbol.asyncIterator](): AsyncIterator<Message, undefined>;
  /** The end; nothing is called any more. */
  close(): void;
}
