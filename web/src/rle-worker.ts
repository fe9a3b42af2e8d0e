/** Encodes and decodes masks away from the thread that draws. */

import { encode, fillRuns } from "./rle";

export type Job =
  | { id: number; kind: "encode"; labels: Uint8Array; height: number; width: number; values: number[] }
  | { id: number; kind: "decode"; height: number; width: number; masks: [number, string][] };

self.onmessage = ({ data }: MessageEvent<Job>) => {
  try {
    if (data.kind === "encode") {
      const counts = data.values.map((value) => encode(data.labels, data.height, data.width, value));
      self.postMessage({ id: data.id, result: counts });
    } else {
      const labels = new Uint8Array(data.height * data.width);
      for (const [value, counts] of data.masks) fillRuns(labels, data.height, data.width, counts, value);
      self.postMessage({ id: data.id, result: labels }, { transfer: [labels.buffer] });
    }
  } catch (error) {
    self.postMessage({ id: data.id, error: error instanceof Error ? error.message : String(error) });
  }
};
