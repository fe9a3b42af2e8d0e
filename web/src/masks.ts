/** Codes masks in a worker, away from the thread that draws. */

import type { Size } from "./paint";
import type { Job } from "./rle-worker";

type Wanted<T> = T extends unknown ? Omit<T, "id"> : never;

export class Masks {
  private worker = new Worker(new URL("./rle-worker.ts", import.meta.url), { type: "module" });
  private waiting = new Map<number, { resolve: (value: never) => void; reject: (error: Error) => void }>();
  private jobs = 0;

  constructor() {
    this.worker.onmessage = ({ data }: MessageEvent<{ id: number; result?: never; error?: string }>) => {
      const { resolve, reject } = this.waiting.get(data.id)!;
      this.waiting.delete(data.id);
      if (data.error === undefined) resolve(data.result as never);
      else reject(new Error(data.error));
    };
  }

  /** Encode the pixels of each value. */
  encode(labels: Uint8Array, { height, width }: Size, values: number[]): Promise<string[]> {
    return this.run({ kind: "encode", labels, height, width, values });
  }

  /** Make labels from pairs of a value and an encoded mask; later ones cover earlier ones. */
  decode({ height, width }: Size, masks: [number, string][]): Promise<Uint8Array> {
    return this.run({ kind: "decode", height, width, masks });
  }

  private run<T>(job: Wanted<Job>): Promise<T> {
    const id = ++this.jobs;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.worker.postMessage({ ...job, id });
    });
  }
}
