import { describe, expect, it } from "vitest";
import written from "./rle-cases.json";
import { encode, fillRuns, runsOf, stringOf } from "../src/rle";

// written by pycocotools: tests/test_page.py compares this file with what it encodes
const cases = written as { size: [number, number]; rows: string[]; counts: string }[];

describe("compressed RLE", () => {
  it("agrees with pycocotools in both directions", () => {
    expect(cases.length).toBeGreaterThan(5);
    for (const { size, rows, counts } of cases) {
      const [height, width] = size;
      const expected = Uint8Array.from(rows.join(""), (digit) => Number(digit));
      const labels = new Uint8Array(height * width);
      fillRuns(labels, height, width, counts, 1);
      expect(labels).toEqual(expected);
      expect(encode(expected, height, width, 1)).toBe(counts);
    }
  });

  it("keeps long runs and large differences", () => {
    const runs = [0, 5, 1_000_000, 3, 2, 70_000, 1, 1, 123_456, 9];
    expect(runsOf(stringOf(runs))).toEqual(runs);
  });

  it("refuses a string that does not fit the picture", () => {
    expect(() => fillRuns(new Uint8Array(6), 2, 3, stringOf([2, 1]), 1)).toThrow("expected runs of 6 pixels, got 3");
    expect(() => runsOf("a\u0001")).toThrow("expected a compressed RLE");
  });
});
