// Loads the files of data. Each is a script that calls datagenReport(kind, number, value), as a
// page that was opened from a disk may load scripts but not fetch files.
const meta = JSON.parse(document.getElementById("meta").textContent);
const waiting = new Map();
const loaded = new Map();
const KEPT_FILES = 160;

const policy = window.trustedTypes
  ? trustedTypes.createPolicy("datagen", {
      createScriptURL: (url) => {
        if (!/^data-[0-9a-f]+\/[a-z]+-\d+\.js$/.test(url)) throw new TypeError(url);
        return url;
      },
    })
  : { createScriptURL: (url) => url };

window.datagenReport = (kind, number, value) => {
  const asked = waiting.get(`${kind}-${number}`);
  waiting.delete(`${kind}-${number}`);
  if (asked) asked(value);
};

// Gives the promise of one file's value; some files of rows stay in memory.
function load(kind, number) {
  const name = `${kind}-${number}`;
  const known = loaded.get(name);
  if (known) {
    loaded.delete(name);
    loaded.set(name, known);
    return known;
  }
  const promise = new Promise((resolve, reject) => {
    waiting.set(name, resolve);
    const script = document.createElement("script");
    const ended = () => {
      script.remove();
      if (!waiting.delete(name)) return;
      loaded.delete(name);
      reject(new Error(`${meta.folder}/${name}.js is missing or damaged`));
    };
    script.onload = ended;
    script.onerror = ended;
    script.src = policy.createScriptURL(`${meta.folder}/${name}.js`);
    document.head.append(script);
  });
  loaded.set(name, promise);
  const rest = [...loaded.keys()].filter((key) => /^(rows|members)-/.test(key));
  for (const key of rest.slice(0, Math.max(0, rest.length - KEPT_FILES))) loaded.delete(key);
  return promise;
}

// One row with all that its card shows.
async function rowOf(number) {
  const chunk = await load("rows", Math.floor(number / meta.sizes.rows));
  const row = chunk.rows[number % meta.sizes.rows];
  return {
    ...row,
    number,
    references: row.references.map((at) => chunk.members[at]),
    targets: row.targets.map((at) => chunk.members[at]),
    provenance: row.provenance.map((at) => chunk.provenance[at]),
  };
}

async function memberOf(number) {
  const chunk = await load("members", Math.floor(number / meta.sizes.members));
  return chunk[number % meta.sizes.members];
}
