/** The state of the page, and everything that a person can do to it. Components draw it and call its methods. */

import type { Api, Edited, Event, FrameMasks, ObjectInfo, ObjectMask, Propagation, Rle, State } from "./api";
import { MODES, type Mode } from "./gl";
import { Masks } from "./masks";
import { fillHoles, removeSpecks, splitOff, type Point, type Size } from "./paint";
import { colourOf, parseHex, toHex, type Colour } from "./palette";

export const TOOLS = ["brush", "eraser", "polygon", "lasso", "box", "click"] as const;
export type Tool = (typeof TOOLS)[number];
export type Direction = "forward" | "backward" | "both";

/** How an object is shown. */
export interface Look {
  name: string;
  colour: Colour;
  locked: boolean;
  hidden: boolean;
}

/** A mask that the network proposes and that is not given yet. */
interface Preview {
  object: number;
  rle: Rle;
}

const AHEAD = 6; // frames that are loaded ahead
const PICTURES = 60; // frames whose pictures stay in memory
const MAX_OBJECTS = 255; // labels on the page have 8 bits
const LANE_PART = 500; // frames of one request for lanes
const LANE_LIMIT = 4000; // longer videos show the lanes around the shown frame only
const SPECK = 64; // pixels

export class Editor {
  session = $state.raw<State | null>(null);
  objects = $state.raw<ObjectInfo[]>([]);
  looks = $state<Record<number, Look>>({});
  selected = $state(0);
  solo = $state(0);
  frame = $state(0);
  tool = $state<Tool>("brush");
  radius = $state(8);
  opacity = $state(0.5);
  mode = $state<Mode>("overlay");
  wipe = $state(0);
  inPoint = $state(0);
  outPoint = $state(0);
  playing = $state(false);
  running = $state.raw<Propagation | null>(null);
  /** Increases when the labels, the masks or the lanes have changed. */
  version = $state(0);
  message = $state("");
  failed = $state(false);
  connected = $state(true);
  help = $state(false);
  exporting = $state(false);
  /** The export that was begun last. */
  exported = $state.raw<{ id: number; state: string; message: string | null; files: number } | null>(null);
  /** Ranges of frames (first, frame after the last) that a propagation would compute. */
  incomplete = $state.raw<[number, number][]>([]);

  /** Labels of the shown frame: places in `objects`, counted from 1. */
  labels: Uint8Array = new Uint8Array(1);
  /** The labels before the last correction of this frame, for the wipe. */
  before: Uint8Array = new Uint8Array(1);
  /** What is known of the objects on the shown frame. */
  shown: ObjectMask[] = [];
  /** Object -> confidence of each frame; 0 where it is lost, null without a result. */
  readonly confidence = new Map<number, (number | null)[]>();
  private readonly masks = new Masks();
  private readonly pictures = new Map<number, Promise<ImageBitmap>>();
  private frames = new Map<number, FrameMasks>();
  /** Objects that exist on the page only: nothing is given of them yet. */
  private fresh: ObjectInfo[] = [];
  private saving: Promise<void> = Promise.resolve();
  private preview: Preview | null = null;
  private composed = -1;
  private composing = 0;
  private hovering = 0;
  private close: () => void = () => undefined;
  private laneTimer: ReturnType<typeof setTimeout> | undefined;

  constructor(readonly api: Api) {}

  get size(): Size {
    return this.session ? { height: this.session.height, width: this.session.width } : { height: 1, width: 1 };
  }

  get count(): number {
    return this.session?.frames ?? 0;
  }

  get look(): Look | null {
    return this.looks[this.selected] ?? null;
  }

  /** Place of an object in the list, counted from 1; its value in `labels`. 0 for an unknown object. */
  place(object: number): number {
    return this.objects.findIndex((each) => each.id === object) + 1;
  }

  /** Run an action; an error becomes the message at the foot of the page. */
  async attempt(action: () => Promise<unknown>): Promise<boolean> {
    try {
      await action();
      return true;
    } catch (error) {
      this.failed = true;
      this.message = error instanceof Error ? error.message : String(error);
      return false;
    }
  }

  say(message: string): void {
    this.failed = false;
    this.message = message;
  }

  // Opening

  async open(session: State): Promise<void> {
    this.close();
    this.session = session;
    this.pictures.clear();
    this.frames.clear();
    this.confidence.clear();
    this.fresh = [];
    this.looks = {};
    this.selected = this.solo = 0;
    const view = (await this.api.view(session.id)) as {
      inPoint?: number;
      outPoint?: number;
      frame?: number;
      looks?: Record<number, { locked: boolean; hidden: boolean }>;
      fresh?: ObjectInfo[];
    };
    this.inPoint = view.inPoint ?? 0;
    this.outPoint = Math.min(view.outPoint ?? session.frames - 1, session.frames - 1);
    this.fresh = view.fresh ?? [];
    history.replaceState(null, "", `#session=${session.id}`);
    document.title = `${session.name} - hodor`;
    this.adopt(session, view.looks);
    this.close = this.api.listen(
      session.id,
      session.event,
      (event) => void this.attempt(() => this.receive(event)),
      (connected) => (this.connected = connected),
    );
    if (this.objects.length) this.selected = this.objects[0].id;
    await this.show(view.frame ?? 0);
    await this.readLanes();
    this.say(session.notes.join("; "));
  }

  /** Take over a state that the server sent. */
  private adopt(state: State, looks: Record<number, { locked: boolean; hidden: boolean }> = {}): void {
    this.session = state;
    this.running = state.propagation?.state === "running" ? state.propagation : null;
    this.fresh = this.fresh.filter((each) => !state.objects.some((known) => known.id === each.id));
    this.objects = [...state.objects, ...this.fresh].sort((a, b) => a.id - b.id);
    this.objects.forEach((each, place) => {
      const old = this.looks[each.id] ?? looks[each.id];
      this.looks[each.id] = {
        name: each.name ?? `object ${each.id}`,
        colour: each.colour ? parseHex(each.colour) : colourOf(place),
        locked: old?.locked ?? false,
        hidden: old?.hidden ?? false,
      };
    });
    if (!this.place(this.selected)) this.selected = this.objects[0]?.id ?? 0;
    this.version++;
  }

  private async receive(event: Event): Promise<void> {
    if (event.type === "frame") {
      this.remember(event);
      if (this.running) this.running = { ...this.running, done: event.done, total: event.total };
      if (event.frame === this.frame) await this.compose();
      else this.version++;
    } else if (event.type === "propagation") {
      this.running = event.propagation.state === "running" ? event.propagation : null;
      if (event.propagation.state === "failed") throw new Error(event.propagation.message ?? "the propagation failed");
      if (!this.running) await this.readLanes();
    } else if (event.type === "state") {
      if (event.state.revision !== this.session?.revision) {
        this.adopt(event.state);
        await this.reload();
      }
    } else if (event.type === "missed") {
      this.adopt(await this.api.session(this.session!.id));
      await this.reload();
    } else if (event.type === "export") {
      this.exported = event.export;
    } else if (event.type === "closed") {
      this.close();
      throw new Error("the session was removed");
    }
  }

  private remember(masks: FrameMasks): void {
    this.frames.delete(masks.frame);
    this.frames.set(masks.frame, masks);
    for (const old of this.frames.keys()) {
      if (this.frames.size <= 400) break;
      this.frames.delete(old);
    }
    for (const { id, confidence } of masks.complete ? masks.objects : []) {
      const known = this.confidence.get(id) ?? new Array<number | null>(this.count).fill(null);
      known[masks.frame] = confidence;
      this.confidence.set(id, known);
    }
  }

  /** Forget the masks of all frames, and read those of the shown one again. */
  private async reload(): Promise<void> {
    this.frames.clear();
    await this.compose();
    clearTimeout(this.laneTimer);
    this.laneTimer = setTimeout(() => void this.attempt(() => this.readLanes()), 150);
  }

  private async readLanes(): Promise<void> {
    const { session } = this;
    if (!session) return;
    this.confidence.clear();
    const whole = this.count <= LANE_LIMIT;
    const first = whole ? 0 : Math.max(0, Math.min(this.frame - LANE_LIMIT / 2, this.count - LANE_LIMIT));
    const end = whole ? this.count : first + LANE_LIMIT;
    if (this.session?.objects.length) {
      for (let start = first; start < end; start += LANE_PART) {
        const lanes = await this.api.lanes(session.id, start, Math.min(end, start + LANE_PART));
        if (this.session?.id !== session.id) return;
        for (const lane of lanes.objects) {
          const known = this.confidence.get(lane.id) ?? new Array<number | null>(this.count).fill(null);
          lane.confidence.forEach((value, at) => (known[start + at] = value));
          this.confidence.set(lane.id, known);
        }
      }
    }
    this.incomplete = (await this.api.incomplete(session.id)).ranges;
    this.version++;
  }

  private viewTimer: ReturnType<typeof setTimeout> | undefined;
  /** Store on the server how things are shown, for the next time. */
  keepView(): void {
    clearTimeout(this.viewTimer);
    this.viewTimer = setTimeout(() => {
      if (!this.session) return;
      const looks = Object.fromEntries(Object.entries(this.looks).map(([id, { locked, hidden }]) => [id, { locked, hidden }]));
      const { inPoint, outPoint, frame, fresh } = this;
      void this.attempt(() => this.api.putView(this.session!.id, { inPoint, outPoint, frame, looks, fresh }));
    }, 300);
  }

  // Frames

  /** The picture of a frame, from the server or from memory. */
  picture(frame: number): Promise<ImageBitmap> {
    let found = this.pictures.get(frame);
    if (!found) {
      found = this.api.picture(this.session!.id, frame);
      found.catch(() => this.pictures.delete(frame));
      this.pictures.set(frame, found);
      for (const old of this.pictures.keys()) {
        if (this.pictures.size <= PICTURES) break;
        if (Math.abs(old - this.frame) <= AHEAD) continue;
        void this.pictures.get(old)!.then((bitmap) => bitmap.close(), () => undefined);
        this.pictures.delete(old);
      }
    }
    return found;
  }

  private async masksOf(frame: number): Promise<FrameMasks> {
    const known = this.frames.get(frame);
    if (known) return known;
    const found = await this.api.masks(this.session!.id, frame);
    this.remember(found);
    return found;
  }

  async show(frame: number): Promise<void> {
    if (!this.session) return;
    this.frame = Math.max(0, Math.min(this.count - 1, frame));
    this.preview = null;
    this.keepView();
    await this.attempt(() => this.compose());
    for (let ahead = 1; ahead <= AHEAD; ahead++) {
      if (this.frame + ahead < this.count) void this.picture(this.frame + ahead).catch(() => undefined);
    }
  }

  async play(): Promise<void> {
    this.playing = !this.playing;
    const rate = this.session?.rate || 25;
    if (this.playing && this.frame >= this.outPoint) await this.show(this.inPoint);
    while (this.playing && this.frame < this.outPoint) {
      const next = performance.now() + 1000 / rate;
      await this.picture(this.frame + 1);
      await this.show(this.frame + 1);
      await new Promise((resolve) => setTimeout(resolve, Math.max(0, next - performance.now())));
    }
    this.playing = false;
  }

  /** Make the labels of the shown frame from the masks of its objects. */
  private async compose(): Promise<void> {
    if (!this.session) return;
    await this.saving;
    const mine = ++this.composing;
    const { frame } = this;
    const found = this.session.objects.length ? await this.masksOf(frame) : { frame, complete: false, objects: [] };
    const masks: [number, string][] = found.objects
      .filter(({ id }) => id !== this.preview?.object)
      .map(({ id, rle }) => [this.place(id), rle.counts]);
    if (this.preview) masks.push([this.place(this.preview.object), this.preview.rle.counts]);
    const labels = await this.masks.decode(this.size, masks.filter(([place]) => place > 0 && place <= MAX_OBJECTS));
    if (mine !== this.composing || frame !== this.frame) return;
    if (this.composed !== frame || this.before.length !== labels.length) this.before = labels.slice();
    this.labels = labels;
    this.shown = found.objects;
    this.composed = frame;
    this.version++;
  }

  // Edits

  /** Make an edit, and show what it changes. */
  private async change(edit: (id: string) => Promise<State | Edited | void>, said = ""): Promise<void> {
    const { session } = this;
    if (!session) return;
    await this.saving;
    const before = this.labels;
    const done = await this.attempt(async () => {
      const answer = await edit(session.id);
      this.preview = null;
      this.frames.clear();
      if (answer && "state" in answer) {
        if (answer.frame) this.remember(answer.frame);
        this.adopt(answer.state as State);
      } else if (answer) this.adopt(answer);
      await this.reload();
      this.before = before;
      this.version++;
    });
    if (done && said) this.say(said);
    else if (done) this.say("");
  }

  async addObject(): Promise<void> {
    if (!this.session) return;
    if (this.objects.length >= MAX_OBJECTS) throw new Error(`expected at most ${MAX_OBJECTS} objects on the page, got one more: use Python`);
    const made = await this.api.newObject(this.session.id, { colour: toHex(colourOf(this.objects.length)) });
    this.fresh = [...this.fresh, made];
    this.selected = made.id;
    this.adopt(this.session);
    this.selected = made.id;
    this.keepView();
  }

  select(place: number): void {
    if (this.objects[place - 1]) this.selected = this.objects[place - 1].id;
  }

  private isFresh(object: number): boolean {
    return this.fresh.some((each) => each.id === object);
  }

  async alter(object: number, about: { name?: string; colour?: string }): Promise<void> {
    if (this.isFresh(object)) {
      this.fresh = this.fresh.map((each) => (each.id === object ? { ...each, ...about } : each));
      this.adopt(this.session!);
      return this.keepView();
    }
    await this.change((id) => this.api.changeObject(id, object, about));
  }

  async removeObject(object: number): Promise<void> {
    if (this.isFresh(object)) {
      this.fresh = this.fresh.filter((each) => each.id !== object);
      this.adopt(this.session!);
      return this.keepView();
    }
    await this.change((id) => this.api.removeObject(id, object), `removed object ${object}`);
  }

  merge(object: number, other: number): Promise<void> {
    return this.change((id) => this.api.merge(id, object, other), `object ${other} is now part of object ${object}`);
  }

  swap(object: number, other: number): Promise<void> {
    const { frame } = this;
    return this.change((id) => this.api.swap(id, object, other, frame), `objects ${object} and ${other} are exchanged from frame ${frame} on`);
  }

  // Drawing

  mayChange = (value: number): boolean => {
    const object = this.objects[value - 1];
    return !object || object.id === this.selected || !this.looks[object.id]?.locked;
  };

  /** Give the masks that a tool has changed on the shown frame. */
  commit(before: Uint8Array): void {
    const { session, frame, labels, size } = this;
    const changed = new Set<number>();
    for (let at = 0; at < before.length; at++) {
      if (before[at] !== labels[at]) changed.add(before[at]).add(labels[at]);
    }
    changed.delete(0);
    if (!changed.size || !session) return;
    const places = [...changed];
    const ids = places.map((place) => this.objects[place - 1].id);
    const copy = labels.slice();
    this.before = before;
    this.composing++; // the labels of a running composition are older than these
    this.saving = this.saving.then(async () => {
      await this.attempt(async () => {
        const counts = await this.masks.encode(copy, size, places);
        let answer: Edited | null = null;
        for (let k = 0; k < ids.length; k++) {
          answer = await this.api.giveMask(session.id, frame, ids[k], { size: [size.height, size.width], counts: counts[k] });
          // the edits of this page are not news
          if (this.session?.id === session.id) this.session = { ...answer.state };
        }
        this.frames.clear();
        if (answer?.frame) {
          this.remember(answer.frame);
          if (this.frame === frame) this.shown = answer.frame.objects;
        }
        if (answer) this.adopt(answer.state);
      });
      clearTimeout(this.laneTimer);
      this.laneTimer = setTimeout(() => void this.attempt(() => this.readLanes()), 150);
    });
  }

  /** Change the labels of the shown frame, and give what has changed. */
  edit(action: (labels: Uint8Array) => void): void {
    if (!this.selected) return this.say("add an object first (N)");
    const before = this.labels.slice();
    action(this.labels);
    this.version++;
    this.commit(before);
  }

  fillHoles(): void {
    this.edit((labels) => this.say(`filled ${fillHoles(labels, this.size, this.place(this.selected))} pixels`));
  }

  removeSpecks(): void {
    this.edit((labels) => this.say(`removed ${removeSpecks(labels, this.size, this.place(this.selected), SPECK)} pixels`));
  }

  /** Make the connected part of the selected object below a point an object of its own. */
  async split(point: Point): Promise<void> {
    const object = this.selected;
    await this.addObject();
    const made = this.selected;
    this.edit((labels) => {
      const moved = splitOff(labels, this.size, point, this.place(object), this.place(made));
      this.say(moved ? `${moved} pixels are now object ${made}` : "the object is not at this point");
    });
  }

  copyTo(frames: number[]): Promise<void> {
    const mask = this.shown.find(({ id }) => id === this.selected);
    if (!mask) return Promise.resolve(this.say("the object has no mask on this frame"));
    return this.change(async (id) => {
      let state: State | undefined;
      for (const frame of frames) ({ state } = await this.api.giveMask(id, frame, mask.id, mask.rle));
      return state;
    }, `copied to frame ${frames.join(" and ")}`);
  }

  /** Give the mask of the shown frame as it is, or the one that is proposed. */
  pin(): Promise<void> {
    const { frame, selected } = this;
    const rle = this.preview?.rle ?? this.shown.find(({ id }) => id === selected)?.rle;
    if (!rle) return Promise.resolve(this.say("the object has no mask on this frame"));
    return this.change((id) => this.api.giveMask(id, frame, selected, rle), `the mask of frame ${frame} is given`);
  }

  clear(): Promise<void> {
    const { frame, selected } = this;
    return this.change((id) => this.api.clear(id, frame, selected), `cleared on frame ${frame}`);
  }

  // Clicks and boxes

  click(point: Point, label: 0 | 1): Promise<void> {
    const { frame, selected } = this;
    this.endHover();
    return this.change((id) => this.api.prompt(id, frame, selected, { points: [[point.x, point.y]], labels: [label] }));
  }

  box(from: Point, to: Point): Promise<void> {
    const { frame, selected } = this;
    const { height, width } = this.size;
    const x = [from.x, to.x].map((value) => Math.max(0, Math.min(width, value))).sort((a, b) => a - b);
    const y = [from.y, to.y].map((value) => Math.max(0, Math.min(height, value))).sort((a, b) => a - b);
    return this.change((id) => this.api.prompt(id, frame, selected, { box: [x[0], y[0], x[1], y[1]] }));
  }

  /** Show what a click at a point would give. */
  async hover(point: Point): Promise<void> {
    const mine = ++this.hovering;
    const { frame, selected, session } = this;
    if (!session || !selected || this.running) return;
    try {
      const { rle } = await this.api.preview(session.id, frame, selected, { points: [[point.x, point.y]], labels: [1] });
      if (mine !== this.hovering || frame !== this.frame || selected !== this.selected || this.tool !== "click") return;
      this.preview = { object: selected, rle };
      await this.compose();
    } catch {
      // without a preview the click still works
    }
  }

  endHover(): void {
    this.hovering++;
    if (!this.preview) return;
    this.preview = null;
    void this.attempt(() => this.compose());
  }

  // Following

  async propagate(direction: Direction): Promise<void> {
    const { session, frame, inPoint, outPoint } = this;
    if (!session) return;
    await this.saving;
    const from = Math.max(inPoint, Math.min(outPoint, frame));
    const range = { start: inPoint, stop: outPoint + 1 };
    const wanted = direction === "both" ? { direction, ...range } : { direction, frame: from, ...range };
    await this.attempt(async () => {
      this.say("");
      this.running = await this.api.propagate(session.id, wanted);
    });
  }

  async stop(): Promise<void> {
    this.playing = false;
    if (this.running) await this.attempt(() => this.api.stop(this.session!.id));
  }

  async worst(): Promise<void> {
    await this.attempt(async () => {
      const { frames } = await this.api.suggest(this.session!.id);
      if (frames.length) await this.show(frames[0]);
      this.say(frames.length ? `a correction of frame ${frames[0]} is expected to help most` : "no frame needs a correction");
    });
  }

  undo = (): Promise<void> => this.change((id) => this.api.undo(id), "undone");
  redo = (): Promise<void> => this.change((id) => this.api.redo(id), "done again");

  async importMask(path: { path: string } | { upload: string }): Promise<void> {
    const { frame } = this;
    let notes: string[] = [];
    await this.change(async (id) => {
      const answer = await this.api.importMask(id, [{ ...path, frame }]);
      notes = answer.notes;
      return answer;
    }, "");
    if (!this.failed) this.say(notes.join("; ") || "the masks are given");
  }

  // Views

  cycleOpacity(): void {
    const steps = [0.25, 0.5, 0.75, 1];
    this.opacity = steps.find((step) => step > this.opacity) ?? steps[0];
  }

  cycleMode(): void {
    this.mode = MODES[(MODES.indexOf(this.mode) + 1) % MODES.length];
  }

  toggle(which: "hidden" | "locked", object = this.selected): void {
    if (!this.looks[object]) return;
    this.looks[object][which] = !this.looks[object][which];
    this.keepView();
  }

  /** Colours of all labels for the renderer, 256 x RGBA; labels that are not shown have alpha 0. */
  palette(): Uint8Array {
    const colours = new Uint8Array(256 * 4);
    this.objects.slice(0, MAX_OBJECTS).forEach((object, place) => {
      const look = this.looks[object.id];
      const visible = look && !look.hidden && (!this.solo || this.solo === object.id);
      if (visible) colours.set([...look.colour, 255], (place + 1) * 4);
    });
    return colours;
  }
}
