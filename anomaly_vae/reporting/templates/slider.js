// Moves the threshold over held-out scores that are counted beforehand; position 0 is the threshold of now.
const held = JSON.parse(document.getElementById("held-out").textContent);
const at = id => document.getElementById(id);
const share = (count, of) => of ? (100 * count / of).toFixed(count && count < of / 1000 ? 3 : 2) + " %" : "not known";
function column(i) {
  const hits = held.hits[i], wrong = held.false[i], rate = wrong / held.normals;
  const often = held.per_day === null
    ? (1000 * rate).toPrecision(3) + " of 1,000 normal " + held.noun
    : (held.per_day * rate).toPrecision(3) + " a day";
  return {
    threshold: held.cuts[i].toPrecision(6) + " nats",
    policy: held.policies[i],
    recall: held.anomalies ? share(hits, held.anomalies) + " (" + hits + " of " + held.anomalies + ")" : "",
    precision: held.anomalies && hits + wrong ? share(hits, hits + wrong) : held.anomalies ? "no alarm" : "",
    rate: share(wrong, held.normals) + " (" + wrong + " of " + held.normals + ")",
    often: often,
    here: held.here[i] + " of " + held.rows + " (" + share(held.here[i], held.rows) + ")",
  };
}
function fill(name, i) {
  for (const [row, text] of Object.entries(column(i))) {
    const cell = at(name + "-" + row);
    if (cell) cell.textContent = text;
  }
}
function move() {
  const i = Number(at("cut").value);
  fill("new", i);
  at("command").textContent = held.command + "--policy " + held.policies[i];
  at("cut").setAttribute("aria-valuetext", held.cuts[i].toPrecision(6) + " nats");
}
at("cut").min = 1;
at("cut").max = held.cuts.length - 1;
at("cut").value = held.start;
at("cut").addEventListener("input", move);
fill("now", 0);
move();
at("slider").hidden = false;
