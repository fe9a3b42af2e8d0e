import { describe, expect, it } from "vitest";
import { fillHoles, fillPolygon, removeSpecks, splitOff, stroke } from "../src/paint";

const size = { height: 6, width: 8 };
const any = () => true;

function picture(...rows: string[]): Uint8Array {
  return Uint8Array.from(rows.join(""), Number);
}

function rows(labels: Uint8Array): string[] {
  return Array.from({ length: size.height }, (_, y) => [...labels.subarray(y * size.width, (y + 1) * size.width)].join(""));
}

describe("drawing", () => {
  it("draws the pixels below a brush and returns where", () => {
    const labels = new Uint8Array(48);
    const rect = stroke(labels, size, { x: 2.5, y: 2.5 }, { x: 5.5, y: 2.5 }, 1, 3, any);
    expect(rows(labels)).toEqual(["00000000", "00333300", "03333330", "00333300", "00000000", "00000000"]);
    expect(rect).toEqual({ x0: 0, y0: 0, x1: 8, y1: 5 });
  });

  it("draws at least one pixel, and nothing outside the picture", () => {
    const labels = new Uint8Array(48);
    stroke(labels, size, { x: 7.9, y: 0.1 }, { x: 7.9, y: 0.1 }, 0.1, 1, any);
    stroke(labels, size, { x: -9, y: -9 }, { x: -9, y: -9 }, 2, 1, any);
    expect(rows(labels)).toEqual(["00000001", "00000000", "00000000", "00000000", "00000000", "00000000"]);
  });

  it("leaves pixels that are locked", () => {
    const labels = picture("22000000", "00000000", "00000000", "00000000", "00000000", "00000000");
    stroke(labels, size, { x: 0, y: 0.5 }, { x: 8, y: 0.5 }, 0.5, 1, (value) => value !== 2);
    expect(rows(labels)[0]).toBe("22111111");
  });

  it("fills polygons by the centres of pixels, with holes where they cross", () => {
    const labels = new Uint8Array(48);
    fillPolygon(labels, size, [{ x: 1, y: 1 }, { x: 7, y: 1 }, { x: 7, y: 5 }, { x: 1, y: 5 }], 1, any);
    expect(rows(labels)).toEqual(["00000000", "01111110", "01111110", "01111110", "01111110", "00000000"]);
    fillPolygon(labels, size, [{ x: 2.5, y: 2.5 }, { x: 4.5, y: 2.5 }, { x: 4.5, y: 4 }, { x: 2.5, y: 4 }], 0, any);
    expect(rows(labels)).toEqual(["00000000", "01111110", "01001110", "01001110", "01111110", "00000000"]);
  });

  it("fills holes that are background, not those that belong to another object", () => {
    const labels = picture("11111000", "10101000", "11121000", "12221000", "11111000", "00000000");
    expect(fillHoles(labels, size, 1)).toBe(2);
    expect(rows(labels)).toEqual(["11111000", "11111000", "11121000", "12221000", "11111000", "00000000"]);
  });

  it("removes specks and keeps the largest area", () => {
    const labels = picture("11100010", "11100000", "00000110", "00000110", "10000000", "00000000");
    expect(removeSpecks(labels, size, 1, 4)).toBe(2);
    expect(rows(labels)).toEqual(["11100000", "11100000", "00000110", "00000110", "00000000", "00000000"]);
    const dot = picture("10000000", "00000000", "00000000", "00000000", "00000000", "00000000");
    expect(removeSpecks(dot, size, 1, 99)).toBe(0);
  });

  it("splits the area below a point off", () => {
    const labels = picture("11100000", "00000000", "00000110", "00000110", "00000000", "00000000");
    expect(splitOff(labels, size, { x: 6.2, y: 3.9 }, 1, 5)).toBe(4);
    expect(splitOff(labels, size, { x: 4, y: 4 }, 1, 5)).toBe(0);
    expect(rows(labels)[2]).toBe("00000550");
    expect(rows(labels)[3]).toBe("00000550");
  });
});
