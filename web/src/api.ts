/** The HTTP interface of the server, /api/v1. docs/serve.md describes it. */

export interface Summary {
  id: string;
  name: string;
  source: string;
  frames: number;
  height: number;
  width: number;
  rate: number | null;
}

export interface ObjectInfo {
  id: number;
  name: string | null;
  colour: string | null;
  given: number[];
}

export interface Propagation {
  id: number;
  state: "running" | "done" | "stopped" | "failed";
  done: number;
  total: number;
  message: string | null;
}

export interface State extends Summary {
  revision: number;
  event: number;
  undo: number;
  redo: number;
  objects: ObjectInfo[];
  propagation: Propagation | null;
  notes: string[];
  damaged: { frame: number; message: string }[];
}

export interface Rle {
  size: [number, number];
  counts: string;
}

export interface ObjectMask {
  id: number;
  rle: Rle;
  confidence: number;
  lost: boolean;
  given: boolean;
  points: [number, number][];
  labels: number[];
  box: [number, number, number, number] | null;
}

export interface FrameMasks {
  frame: number;
  complete: boolean;
  objects: ObjectMask[];
}

export interface Edited {
  state: State;
  frame: FrameMasks | null;
}

export interface Lanes {
  start: number;
  stop: number;
  objects: { id: number; given: number[]; confidence: (number | null)[]; agreement: (number | null)[] }[];
}

export interface Export {
  id: number;
  folder: string | null;
  state: "running" | "done" | "failed";
  message: string | null;
  files: number;
  names: string[];
}

export interface FileInfo {
  name: string;
  folder: boolean;
  bytes: number | null;
}

export interface Health {
  outputs: string[];
}

export type Event =
  | { type: "state"; event: number; state: State }
  | ({ type: "frame"; event: number; done: number; total: number } & FrameMasks)
  | { type: "propagation"; event: number; propagation: Propagation }
  | { type: "export"; event: number; export: Export }
  | { type: "missed"; event: number }
  | { type: "closed"; event: number };

const PREFIX = "/api/v1";

export class Api {
  constructor(private readonly token: string) {}

  health = () => this.json<Health>("GET", "/health");
  files = (path: string) => this.json<{ path: string; files: FileInfo[] }>("GET", `/files?path=${encodeURIComponent(path)}`);
  sessions = () => this.json<Summary[]>("GET", "/sessions");
  session = (id: string) => this.json<State>("GET", `/sessions/${id}`);
  create = (from: { path: string } | { upload: string; name: string }) => this.json<State>("POST", "/sessions", from);

  async upload(file: File): Promise<string> {
    const answer = await this.request("POST", `/uploads?name=${encodeURIComponent(file.name)}`, file, "application/octet-stream");
    return ((await answer.json()) as { upload: string }).upload;
  }

  async picture(id: string, frame: number): Promise<ImageBitmap> {
    const answer = await this.request("GET", `/sessions/${id}/frames/${frame}`);
    return createImageBitmap(await answer.blob());
  }

  masks = (id: string, frame: number) => this.json<FrameMasks>("GET", `/sessions/${id}/frames/${frame}/masks`);
  lanes = (id: string, start: number, stop: number) => this.json<Lanes>("GET", `/sessions/${id}/lanes?start=${start}&stop=${stop}`);
  incomplete = (id: string) => this.json<{ ranges: [number, number][] }>("GET", `/sessions/${id}/incomplete`);
  view = (id: string) => this.json<Record<string, unknown>>("GET", `/sessions/${id}/view`);
  putView = (id: string, view: object) => this.json<void>("PUT", `/sessions/${id}/view`, view);

  giveMask = (id: string, frame: number, object: number, mask: Rle) =>
    this.json<Edited>("PUT", `/sessions/${id}/frames/${frame}/objects/${object}/mask`, mask);
  clear = (id: string, frame: number, object: number) =>
    this.json<Edited>("DELETE", `/sessions/${id}/frames/${frame}/objects/${object}/mask`);
  prompt = (id: string, frame: number, object: number, prompts: object) =>
    this.json<Edited>("POST", `/sessions/${id}/frames/${frame}/objects/${object}/prompts`, prompts);
  preview = (id: string, frame: number, object: number, prompts: object) =>
    this.json<{ rle: Rle; score: number }>("POST", `/sessions/${id}/frames/${frame}/objects/${object}/preview`, prompts);

  newObject = (id: string, about: object) => this.json<ObjectInfo>("POST", `/sessions/${id}/objects`, about);
  changeObject = (id: string, object: number, about: object) => this.json<State>("PATCH", `/sessions/${id}/objects/${object}`, about);
  removeObject = (id: string, object: number) => this.json<State>("DELETE", `/sessions/${id}/objects/${object}`);
  merge = (id: string, object: number, other: number) => this.json<State>("POST", `/sessions/${id}/objects/${object}/merge`, { other });
  swap = (id: string, object: number, other: number, frame: number) =>
    this.json<State>("POST", `/sessions/${id}/objects/${object}/swap`, { other, frame });
  undo = (id: string) => this.json<State>("POST", `/sessions/${id}/undo`);
  redo = (id: string) => this.json<State>("POST", `/sessions/${id}/redo`);
  importMask = (id: string, masks: object[]) => this.json<Edited & { notes: string[] }>("POST", `/sessions/${id}/imports`, { masks });

  propagate = (id: string, wanted: object) => this.json<Propagation>("POST", `/sessions/${id}/propagation`, wanted);
  stop = (id: string) => this.json<Propagation>("DELETE", `/sessions/${id}/propagation`);
  suggest = (id: string) => this.json<{ frames: number[] }>("GET", `/sessions/${id}/suggestions?k=1`);

  exportAs = (id: string, wanted: object) => this.json<Export>("POST", `/sessions/${id}/exports`, wanted);
  /** An address from which the browser can download an export; it is valid once. */
  async zipAddress(id: string, number: number): Promise<string> {
    const path = `${PREFIX}/sessions/${id}/exports/${number}/zip`;
    const { ticket } = await this.json<{ ticket: string }>("POST", "/tickets", { path });
    return `${path}?ticket=${ticket}`;
  }

  /** Receive events after a number, also after the connection was lost, until the returned function is called. */
  listen(id: string, after: number, receive: (event: Event) => void, connected: (is: boolean) => void): () => void {
    let ended = false;
    let last = after;
    let socket: WebSocket | null = null;
    const connect = () => {
      if (ended) return;
      const scheme = location.protocol === "https:" ? "wss" : "ws";
      socket = new WebSocket(`${scheme}://${location.host}${PREFIX}/sessions/${id}/events?after=${last}`, ["hodor.v1", `token.${this.token}`]);
      socket.onopen = () => connected(true);
      socket.onmessage = ({ data }: MessageEvent<string>) => {
        const event = JSON.parse(data) as Event;
        last = event.event;
        receive(event);
      };
      socket.onclose = () => {
        if (ended) return;
        connected(false);
        setTimeout(connect, 500);
      };
    };
    connect();
    return () => {
      ended = true;
      socket?.close();
    };
  }

  private async json<T>(method: string, path: string, body?: unknown): Promise<T> {
    const answer = await this.request(method, path, body === undefined ? undefined : JSON.stringify(body), "application/json");
    return answer.status === 204 ? (undefined as T) : ((await answer.json()) as T);
  }

  private async request(method: string, path: string, body?: BodyInit, kind?: string): Promise<Response> {
    const headers: Record<string, string> = { Authorization: `Bearer ${this.token}` };
    if (body !== undefined && kind) headers["Content-Type"] = kind;
    let answer: Response;
    try {
      answer = await fetch(PREFIX + path, { method, headers, body });
    } catch {
      throw new Error("the server does not answer: is hodor serve still running?");
    }
    if (!answer.ok) {
      const text = await answer.text();
      let detail = `${answer.status} ${answer.statusText}`;
      try {
        detail = (JSON.parse(text) as { detail: string }).detail;
      } catch {
        // not an answer of this server
      }
      throw new Error(detail);
    }
    return answer;
  }
}
