// Follow objects through frames with the graphs of `hodor export` and onnxruntime-web, in Node or in a browser.
//
//   npm install onnxruntime-web
//   node onnx_segment.mjs GRAPHS FRAMES OUT
//
// GRAPHS is the folder of `hodor export xmem-lite -o GRAPHS`. FRAMES holds mask.pgm (ids of the first frame) and 00000.ppm,
// 00001.ppm, ... of the size that the network is to see, short side some 256 to 416. OUT receives one .pgm of ids a frame.
// In a browser, replace the three functions at the end: a canvas resizes and reads a frame, fetch reads the graphs.
// The memory is the first frame and the latest ones; the prototypes of long videos are left to hodor/onnx_memory.py.
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import * as ort from "onnxruntime-web";

const tensor = (data, dims) => new ort.Tensor("float32", data, dims);
const join1 = (parts) => { // concatenate along the first axis
  const out = new Float32Array(parts.reduce((n, each) => n + each.data.length, 0));
  parts.reduce((at, each) => (out.set(each.data, at), at + each.data.length), 0);
  return tensor(out, [parts.reduce((n, each) => n + each.dims[0], 0), ...parts[0].dims.slice(1)]);
};

export class Tracker {
  constructor(about, sessions) {
    Object.assign(this, { about, sessions, memory: [], index: 0 });
    if (about.keep !== "long_term" || about.state.length !== 1) throw new Error("expected the graphs of an XMem");
  }

  async run(graph, pool) {
    const session = this.sessions[graph];
    return session.run(Object.fromEntries(session.inputNames.map((name) => [name, pool[name]])));
  }

  // rgb: [H * W * 3] bytes; labels: [H * W] ids of the first frame. Returns ids [H * W].
  async track(rgb, height, width, labels = null) {
    const { multiple, pad_colour: colour, state, mem_every: every } = this.about;
    const [down, right] = [height, width].map((side) => (multiple - (side % multiple)) % multiple);
    const [H, W, top, left] = [height + down, width + right, down >> 1, right >> 1];
    const picture = new Float32Array(3 * H * W);
    for (let c = 0; c < 3; c++) {
      picture.fill(colour[c], c * H * W, (c + 1) * H * W);
      for (let y = 0; y < height; y++)
        for (let x = 0; x < width; x++) picture[(c * H + top + y) * W + left + x] = rgb[(y * width + x) * 3 + c] / 255;
    }
    const frame = tensor(picture, [1, 3, H, W]);
    const encoded = await this.run("encode", { frame });
    const pool = { ...encoded, frame };
    if (labels) this.ids = [...new Set(labels)].filter((id) => id).sort((a, b) => a - b);
    const N = this.ids.length, name = state[0].name, size = { N, h: H / 16, w: W / 16 };
    const dims = state[0].shape.map((side) => size[side] ?? side);
    this.state ??= tensor(new Float32Array(dims.reduce((a, b) => a * b)), dims);
    pool[name] = this.state;
    const due = labels !== null || this.index - this.memory.at(-1).index >= every;
    const ids = new Uint8Array(height * width);
    let masks = new Float32Array(N * H * W);
    if (labels) {
      ids.set(labels);
      labels.forEach((id, i) => {
        if (id) masks[(this.ids.indexOf(id) * H + top + Math.floor(i / width)) * W + left + (i % width)] = 1;
      });
    } else {
      pool.token = join1(this.memory.map((each) => each.token));
      pool.values = join1(this.memory.map((each) => each.values));
      pool.readout = (await this.run("read", pool)).readout;
      const found = await this.run("segment", pool);
      masks = found.masks.data;
      if (!due) this.state = found[`next_${name}`];
      for (let i = 0; i < ids.length; i++) { // the object with the largest logit; plane 0 is the background
        const at = (top + Math.floor(i / width)) * W + left + (i % width);
        let best = 0;
        for (let n = 1; n <= N; n++) if (found.logits.data[n * H * W + at] > found.logits.data[best * H * W + at]) best = n;
        ids[i] = best ? this.ids[best - 1] : 0;
      }
    }
    if (due) {
      const more = { masks: tensor(masks, [N, H, W]), is_valid: tensor(new Float32Array(N).fill(1), [N]) };
      const kept = await this.run("remember", { ...pool, ...more });
      this.memory.push({ index: this.index, token: encoded.token, values: kept.values });
      this.state = kept[`next_${name}`];
      if (this.memory.length > this.about.history - 1) this.memory.splice(1, 1);
    }
    this.index++;
    return ids;
  }
}

const read = (path) => { // a binary .ppm or .pgm: "P6 WIDTH HEIGHT 255 " and the bytes
  const bytes = readFileSync(path), head = bytes.toString("latin1", 0, 64).match(/^P[56]\s+(\d+)\s+(\d+)\s+255\s/);
  if (!head) throw new Error(`expected a binary .ppm or .pgm of 8 bits, got ${path}`);
  return { data: bytes.subarray(head[0].length), width: Number(head[1]), height: Number(head[2]) };
};

const load = async (folder) => {
  ort.env.wasm.numThreads = 1;
  const about = JSON.parse(readFileSync(join(folder, "network.json"), "utf8"));
  const open = async ([name, { file }]) => [name, await ort.InferenceSession.create(readFileSync(join(folder, file)))];
  return new Tracker(about, Object.fromEntries(await Promise.all(Object.entries(about.graphs).map(open))));
};

const main = async (graphs, frames, out) => {
  const tracker = await load(graphs), mask = read(join(frames, "mask.pgm"));
  mkdirSync(out, { recursive: true });
  const began = performance.now(), files = readdirSync(frames).filter((file) => file.endsWith(".ppm")).sort();
  for (const [i, file] of files.entries()) {
    const { data, width, height } = read(join(frames, file));
    const ids = await tracker.track(data, height, width, i ? null : mask.data);
    writeFileSync(join(out, file.replace(".ppm", ".pgm")), Buffer.concat([Buffer.from(`P5 ${width} ${height} 255\n`), ids]));
  }
  console.log(`${files.length} frames, ${((performance.now() - began) / 1000 / files.length).toFixed(2)} s a frame`);
};

await main(...process.argv.slice(2));
