/** The keys of the page. */

import type { Editor } from "./editor.svelte";

/** What the keys need of the picture. */
export interface Picture {
  zoomToFit(): void;
  close(): void;
  cancel(): void;
  drawing(): boolean;
}

export const KEYS: readonly (readonly [string, string])[] = [
  ["← →, with Shift", "one frame, ten frames back or on"],
  ["Home, End", "first, last frame"],
  ["Space", "play"],
  ["F, B, R", "follow forward, backward, in both directions"],
  ["Esc", "stop; discard the outline that is being drawn"],
  ["1 to 9, N", "choose an object; new object"],
  ["D, E, P, L, X, C", "brush, eraser, polygon, lasso, box, click"],
  ["[ ]", "smaller, larger brush"],
  ["H, Shift+H", "hide the object; show only this object"],
  ["O, V, 0", "opacity, view, fit the picture to the page"],
  ["Enter", "close the outline; else give the mask of this frame as it is"],
  ["Delete", "clear what is given of the object on this frame"],
  ["W", "next frame where a correction helps most"],
  ["I, Shift+I", "in point, out point at this frame"],
  ["Ctrl+Z, Ctrl+Shift+Z", "undo, redo"],
  ["Ctrl+E", "export"],
  ["wheel; Alt or middle button", "zoom; move the picture"],
  ["right button", "a click on the background"],
  ["?", "this list"],
];

/** Perform the action of a key. Returns whether it has one. */
export function press(event: KeyboardEvent, editor: Editor, picture: Picture): boolean {
  const target = event.target as HTMLElement;
  if (target.matches("input:not([type=range]):not([type=color]), textarea, select") && event.key !== "Escape") return false;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const step = event.shiftKey ? 10 : 1;
  if (event.ctrlKey || event.metaKey) {
    if (key === "z") void (event.shiftKey ? editor.redo() : editor.undo());
    else if (key === "y") void editor.redo();
    else if (key === "e") editor.exporting = true;
    else return false;
    return true;
  }
  if (/^[1-9]$/.test(key)) {
    editor.select(Number(key));
    return true;
  }
  const actions: Record<string, () => void> = {
    ArrowLeft: () => void editor.show(editor.frame - step),
    ArrowRight: () => void editor.show(editor.frame + step),
    Home: () => void editor.show(0),
    End: () => void editor.show(editor.count - 1),
    " ": () => void editor.play(),
    f: () => void editor.propagate("forward"),
    b: () => void editor.propagate("backward"),
    r: () => void editor.propagate("both"),
    Escape: () => {
      if (editor.help || editor.exporting) editor.help = editor.exporting = false;
      else if (picture.drawing()) picture.cancel();
      else void editor.stop();
    },
    n: () => void editor.attempt(() => editor.addObject()),
    d: () => void (editor.tool = "brush"),
    e: () => void (editor.tool = "eraser"),
    p: () => void (editor.tool = "polygon"),
    l: () => void (editor.tool = "lasso"),
    x: () => void (editor.tool = "box"),
    c: () => void (editor.tool = "click"),
    "[": () => void (editor.radius = Math.max(1, Math.round(editor.radius / 1.25))),
    "]": () => void (editor.radius = Math.min(100, Math.round(editor.radius * 1.25 + 0.5))),
    h: () => {
      if (event.shiftKey) editor.solo = editor.solo === editor.selected ? 0 : editor.selected;
      else editor.toggle("hidden");
    },
    o: () => editor.cycleOpacity(),
    v: () => editor.cycleMode(),
    "0": () => picture.zoomToFit(),
    Enter: () => {
      if (picture.drawing()) picture.close();
      else void editor.pin();
    },
    Delete: () => void editor.clear(),
    w: () => void editor.worst(),
    i: () => {
      if (event.shiftKey) editor.outPoint = Math.max(editor.frame, editor.inPoint);
      else editor.inPoint = Math.min(editor.frame, editor.outPoint);
      editor.keepView();
    },
    "?": () => void (editor.help = !editor.help),
  };
  const action = actions[key];
  action?.();
  return action !== undefined;
}
