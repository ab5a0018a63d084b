// What a page on the web can do to the daemon: nothing. And what an allowed page can: all.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

// The test runs from the folder of its tools, which tells it where the programs are.
const dist = process.env.CORTEX_TEST_DIST;
let folder, daemon, address, foreign, allowed, browser;

/** A server with one empty page. */
async function page() {
  const server = createServer((_, answer) => {
    answer.setHeader("content-type", "text/html");
    answer.end("<!doctype html><title>page</title>");
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  return server;
}

const origin = (server) => `http://127.0.0.1:${server.address().port}`;

before(async () => {
  folder = mkdtempSync(join(tmpdir(), "cortex-browser-"));
  foreign = await page();
  allowed = await page();
  daemon = spawn(
    join(dist, "cortex-server"),
    ["--config_file_path", join(folder, "rc"), "--data_folder_path", join(folder, "data"), "--host", "127.0.0.1",
      "--port", "0", "--allowed_origins", origin(allowed)],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  for await (const line of createInterface({ input: daemon.stdout })) {
    address = `http://127.0.0.1:${line.split("Port: ")[1].trim()}`;
    break;
  }
  browser = await chromium.launch({
    executablePath: "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync"],
  });
});

after(async () => {
  await browser?.close();
  daemon?.kill("SIGKILL");
  foreign?.close();
  allowed?.close();
  rmSync(folder, { recursive: true, force: true });
});

/** Tries everything that a page can try; says what it could do and what the daemon answered. */
async function attack(frame) {
  return frame.evaluate(async (address) => {
    const tried = async (path, options) => {
      try {
        const answer = await fetch(address + path, options);
        return answer.type === "opaque" ? "sent" : `read ${answer.status}`;
      } catch {
        return "refused";
      }
    };
    const socket = await new Promise((done) => {
      const socket = new WebSocket(`${address.replace("http", "ws")}/events`);
      socket.onopen = () => done("open");
      socket.onerror = () => done("refused");
    });
    return {
      read: await tried("/v1/models"),
      plain: await tried("/v1/models/stop", { method: "POST", mode: "no-cors", body: '{"model":"x"}' }),
      json: await tried("/v1/models/stop", {
        method: "POST", headers: { "content-type": "application/json" }, body: '{"model":"x"}',
      }),
      destroy: await tried("/processManager/destroy", { method: "DELETE" }),
      socket,
    };
  }, address);
}

/** Statuses that the daemon gave to requests of a page. */
function watch(page) {
  const seen = [];
  page.on("response", (answer) => {
    if (answer.url().startsWith(address)) seen.push([answer.request().method(), answer.status()]);
  });
  return seen;
}

test("a page of another origin reads nothing and changes nothing", async () => {
  const page = await browser.newPage();
  const seen = watch(page);
  await page.goto(origin(foreign));
  assert.deepEqual(await attack(page), {
    read: "refused", plain: "sent", json: "refused", destroy: "refused", socket: "refused",
  });
  // What was sent without asking was refused by the daemon itself.
  assert.ok(seen.some(([method, status]) => method === "POST" && status === 403), JSON.stringify(seen));
  await page.setContent(`<form method="post" action="${address}/v1/models/stop"><input name="model" value="x"></form>`);
  const [answer] = await Promise.all([
    page.waitForResponse((answer) => answer.url().includes("/v1/models/stop")),
    page.evaluate(() => document.forms[0].submit()),
  ]);
  assert.equal(answer.status(), 403);
  assert.equal((await fetch(`${address}/healthz`)).status, 200);
});

test("a sandboxed frame, whose origin is null, fares no better", async () => {
  const page = await browser.newPage();
  await page.goto(origin(foreign));
  await page.setContent('<iframe sandbox="allow-scripts" srcdoc="<p>inside</p>"></iframe>');
  const frame = await (await page.waitForSelector("iframe")).contentFrame();
  assert.deepEqual(await attack(frame), {
    read: "refused", plain: "sent", json: "refused", destroy: "refused", socket: "refused",
  });
  assert.equal((await fetch(`${address}/healthz`)).status, 200);
});

test("a page of an allowed origin reads and changes, with the headers that clients send", async () => {
  const page = await browser.newPage();
  await page.goto(origin(allowed));
  const result = await page.evaluate(async (address) => {
    const models = await fetch(`${address}/v1/models`);
    const stop = await fetch(`${address}/v1/models/stop`, {
      method: "POST",
      headers: { "Content-Type": "application/json", Authorization: "Bearer x", "Access-Control-Allow-Origin": "*" },
      body: '{"model":"nobody"}',
    });
    return { models: models.status, stop: stop.status, message: (await stop.json()).message };
  }, address);
  assert.equal(result.models, 200);
  assert.equal(result.stop, 400);
  assert.match(result.message, /nobody/);
});
