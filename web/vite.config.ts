import { createHash } from "node:crypto";
import { readFileSync, readdirSync } from "node:fs";
import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig, type Plugin } from "vite";

/** Stores the hash of the sources beside the built files, so that a test without Node sees whether they belong together. */
function sourceHash(): Plugin {
  return {
    name: "source-hash",
    generateBundle() {
      const hash = createHash("sha256");
      const files = ["index.html", "package-lock.json", "vite.config.ts", ...readdirSync("src").sort().map((name) => `src/${name}`)];
      for (const file of files) hash.update(`${file}\n`).update(readFileSync(file));
      this.emitFile({ type: "asset", fileName: "sources.sha256", source: `${hash.digest("hex")}\n` });
    },
  };
}

// The built page is part of the Python package, so that installing it needs no Node. The server lets
// browsers keep files with a hash in their name.
export default defineConfig({
  plugins: [svelte(), sourceHash()],
  base: "./",
  build: {
    outDir: "../src/hodor/serve/page",
    emptyOutDir: true,
    modulePreload: { polyfill: false },
    rollupOptions: { output: { entryFileNames: "page-[hash].js", assetFileNames: "[name]-[hash][extname]" } },
  },
  worker: { format: "es", rollupOptions: { output: { entryFileNames: "worker-[hash].js" } } },
});
