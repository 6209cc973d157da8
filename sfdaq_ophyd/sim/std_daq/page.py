"""The service's web page: state, configuration, log and live picture."""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Standard DAQ (simulated)</title>
<style>
body { font-family: sans-serif; margin: 2em; max-width: 60em }
pre { background: #f4f4f4; padding: 0.7em; overflow: auto }
img { width: 400px; border: 1px solid #999 }
</style></head><body>
<h1>Standard DAQ (simulated)</h1>
<img src="/daq/live" alt="live picture">
<h2>Writer</h2><pre id="status"></pre>
<h2>Throughput</h2><pre id="stats"></pre>
<h2>Configuration</h2><pre id="config"></pre>
<h2>Last acquisitions</h2><pre id="logs"></pre>
<script>
const show = async (id, path) => {
  const reply = await (await fetch(path)).json();
  document.getElementById(id).textContent = JSON.stringify(reply, null, 1);
};
const refresh = () => {
  show("status", "/writer/status"); show("stats", "/daq/stats");
  show("config", "/daq/config"); show("logs", "/daq/logs/5");
};
refresh(); setInterval(refresh, 1000);
</script></body></html>
"""
