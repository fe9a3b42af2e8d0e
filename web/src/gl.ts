/** Draws a frame and its labels with WebGL2: the picture, one texture of labels, and a palette that gives each label a colour. */

import type { Rect, Size } from "./paint";

export const MODES = ["overlay", "outline", "matte", "cutout", "frame"] as const;
export type Mode = (typeof MODES)[number];

export interface View {
  /** Canvas pixels for each pixel of the frame. */
  scale: number;
  /** Where the top left corner of the frame is, in canvas pixels. */
  left: number;
  top: number;
}

const VERTEX = `#version 300 es
in vec2 corner;
uniform vec4 place;
out vec2 at;
void main() {
  at = corner;
  gl_Position = vec4(place.xy + corner * place.zw, 0.0, 1.0);
}`;

const FRAGMENT = `#version 300 es
precision highp float;
precision highp usampler2D;
uniform sampler2D picture;
uniform usampler2D labels;
uniform usampler2D before;
uniform sampler2D palette;
uniform vec2 size;
uniform float opacity;
uniform float pixel;
uniform float wipe;
uniform int mode;
in vec2 at;
out vec4 colour;

uint label(vec2 p) {
  ivec2 i = ivec2(clamp(p * size, vec2(0.0), size - 1.0));
  return p.x < wipe ? texelFetch(before, i, 0).r : texelFetch(labels, i, 0).r;
}

void main() {
  vec3 base = texture(picture, at).rgb;
  uint own = label(at);
  vec4 tint = texelFetch(palette, ivec2(int(own), 0), 0);
  bool shown = own > 0u && tint.a > 0.0;
  if (mode == 0) {
    base = shown ? mix(base, tint.rgb, opacity) : base;
  } else if (mode == 2) {
    base = shown ? vec3(1.0) : vec3(0.0);
  } else if (mode == 3) {
    vec2 square = floor(at * size / 8.0);
    base = shown ? base : vec3(mod(square.x + square.y, 2.0) < 1.0 ? 0.32 : 0.42);
  }
  if (mode == 0 || mode == 1) {
    vec2 step = pixel / size;
    bool edge = false;
    for (int k = 0; k < 4; k++) {
      vec2 side = k == 0 ? vec2(step.x, 0.0) : k == 1 ? vec2(-step.x, 0.0) : k == 2 ? vec2(0.0, step.y) : vec2(0.0, -step.y);
      edge = edge || label(at + side) != own;
    }
    if (edge && shown) base = tint.rgb;
  }
  if (wipe > 0.0 && abs(at.x - wipe) * size.x < 0.5 * pixel) base = vec3(1.0);
  colour = vec4(base, 1.0);
}`;

export class Renderer {
  private readonly gl: WebGL2RenderingContext;
  private readonly program: WebGLProgram;
  private readonly uniforms = new Map<string, WebGLUniformLocation | null>();
  private size: Size = { height: 1, width: 1 };

  constructor(private readonly canvas: HTMLCanvasElement) {
    const gl = canvas.getContext("webgl2", { antialias: false, alpha: false, preserveDrawingBuffer: true });
    if (!gl) throw new Error("this browser has no WebGL2, which the page needs");
    this.gl = gl;
    this.program = this.link();
    gl.useProgram(this.program);
    const corners = gl.createBuffer();
    gl.bindBuffer(gl.ARRAY_BUFFER, corners);
    gl.bufferData(gl.ARRAY_BUFFER, new Float32Array([0, 0, 1, 0, 0, 1, 1, 1]), gl.STATIC_DRAW);
    const corner = gl.getAttribLocation(this.program, "corner");
    gl.enableVertexAttribArray(corner);
    gl.vertexAttribPointer(corner, 2, gl.FLOAT, false, 0, 0);
    ["picture", "labels", "before", "palette"].forEach((name, unit) => {
      this.makeTexture(unit);
      gl.uniform1i(this.uniform(name), unit);
    });
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
  }

  /** Show another frame. */
  setPicture(picture: ImageBitmap): void {
    const gl = this.gl;
    gl.activeTexture(gl.TEXTURE0);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, picture);
    this.size = { height: picture.height, width: picture.width };
  }

  /** Replace the labels, or those of an earlier state, which the wipe shows. */
  setLabels(labels: Uint8Array, { height, width }: Size, which: "labels" | "before" = "labels"): void {
    if (labels.length !== height * width) return; // none are known yet
    const gl = this.gl;
    gl.activeTexture(which === "labels" ? gl.TEXTURE1 : gl.TEXTURE2);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.R8UI, width, height, 0, gl.RED_INTEGER, gl.UNSIGNED_BYTE, labels);
  }

  /** Replace the labels inside a rectangle, which is quick enough to follow the pen. */
  updateLabels(labels: Uint8Array, { width }: Size, rect: Rect): void {
    if (rect.x1 <= rect.x0 || rect.y1 <= rect.y0) return;
    const gl = this.gl;
    gl.activeTexture(gl.TEXTURE1);
    gl.pixelStorei(gl.UNPACK_ROW_LENGTH, width);
    gl.pixelStorei(gl.UNPACK_SKIP_PIXELS, rect.x0);
    gl.pixelStorei(gl.UNPACK_SKIP_ROWS, rect.y0);
    gl.texSubImage2D(
      gl.TEXTURE_2D, 0, rect.x0, rect.y0, rect.x1 - rect.x0, rect.y1 - rect.y0, gl.RED_INTEGER, gl.UNSIGNED_BYTE, labels,
    );
    gl.pixelStorei(gl.UNPACK_ROW_LENGTH, 0);
    gl.pixelStorei(gl.UNPACK_SKIP_PIXELS, 0);
    gl.pixelStorei(gl.UNPACK_SKIP_ROWS, 0);
  }

  /** Set the colours of all labels: 256 x RGBA; labels with alpha 0 are not shown. */
  setPalette(colours: Uint8Array): void {
    const gl = this.gl;
    gl.activeTexture(gl.TEXTURE3);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, 256, 1, 0, gl.RGBA, gl.UNSIGNED_BYTE, colours);
  }

  /**
   * Draw.
   *
   * @param wipe share of the frame's width, from the left, that shows the earlier labels; 0 shows none of them.
   */
  draw(view: View, mode: Mode, opacity: number, wipe = 0): void {
    const { gl, canvas } = this;
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clearColor(0.09, 0.09, 0.1, 1);
    gl.clear(gl.COLOR_BUFFER_BIT);
    const { height, width } = this.size;
    gl.uniform4f(
      this.uniform("place"),
      (2 * view.left) / canvas.width - 1,
      1 - (2 * view.top) / canvas.height,
      (2 * width * view.scale) / canvas.width,
      (-2 * height * view.scale) / canvas.height,
    );
    gl.uniform2f(this.uniform("size"), width, height);
    gl.uniform1f(this.uniform("opacity"), opacity);
    gl.uniform1f(this.uniform("pixel"), Math.max(1, 2 / view.scale));
    gl.uniform1f(this.uniform("wipe"), wipe);
    gl.uniform1i(this.uniform("mode"), MODES.indexOf(mode));
    gl.activeTexture(gl.TEXTURE0);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, view.scale >= 3 ? gl.NEAREST : gl.LINEAR);
    gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
  }

  private uniform(name: string): WebGLUniformLocation | null {
    if (!this.uniforms.has(name)) this.uniforms.set(name, this.gl.getUniformLocation(this.program, name));
    return this.uniforms.get(name)!;
  }

  /** Make a texture of one pixel for a unit: the picture, two for labels, the palette. */
  private makeTexture(unit: number): void {
    const gl = this.gl;
    const texture = gl.createTexture();
    gl.activeTexture(gl.TEXTURE0 + unit);
    gl.bindTexture(gl.TEXTURE_2D, texture);
    const filter = unit === 0 ? gl.LINEAR : gl.NEAREST;
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, filter);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, filter);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE);
    const blank = new Uint8Array(4);
    if (unit === 1 || unit === 2) gl.texImage2D(gl.TEXTURE_2D, 0, gl.R8UI, 1, 1, 0, gl.RED_INTEGER, gl.UNSIGNED_BYTE, blank.subarray(3));
    else gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, 1, 1, 0, gl.RGBA, gl.UNSIGNED_BYTE, blank);
  }

  private link(): WebGLProgram {
    const gl = this.gl;
    const program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]] as const) {
      const shader = gl.createShader(kind)!;
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader) ?? "shader");
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program) ?? "program");
    return program;
  }
}
