// What a person and a plugin do with a Backstage, over HTTP. Prints one JSON object of answers from which
// everything is removed that may differ between two runs (ids, etags, times), so that two runs can be compared.
//
//   BACKSTAGE_URL   where the backend answers
//   DEADLINE_MS     how long all of it may take (default 90 s)

const base = process.env.BACKSTAGE_URL;
const deadline = Date.now() + Number(process.env.DEADLINE_MS ?? 90_000);
const run = `run-${process.pid}-${Date.now()}`;
const service = 'stagedoor-acceptance-token';
const answers = {};
const timings = {};

async function call(method, path, { body, token = service, timeout = 15_000 } = {}) {
  const response = await fetch(base + path, {
    method,
    headers: { authorization: `Bearer ${token}`, ...(body && { 'content-type': 'application/json' }) },
    body: body && JSON.stringify(body),
    signal: AbortSignal.timeout(Math.max(1, Math.min(timeout, deadline - Date.now()))),
  });
  const text = await response.text();
  let json;
  try {
    json = JSON.parse(text);
  } catch {
    json = text;
  }
  return { status: response.status, json };
}

// Asks until `good` accepts the answer. The only waiting there is, and it ends at the deadline.
async function until(what, ask, good) {
  let last;
  for (;;) {
    try {
      last = await ask();
      if (good(last)) return last;
    } catch (error) {
      last = { error: String(error.cause ?? error) };
    }
    if (Date.now() > deadline) throw new Error(`${what}: not in time, last answer ${JSON.stringify(last)}`);
    await new Promise(resolve => setTimeout(resolve, 100));
  }
}

const volatile = new Set(['uid', 'etag', 'id', 'created', 'createdAt', 'lastHeartbeatAt', 'taskId', 'updated']);

function settled(value) {
  if (Array.isArray(value)) return value.map(settled);
  if (value && typeof value === 'object') {
    return Object.fromEntries(
      Object.entries(value)
        .filter(([key]) => !volatile.has(key))
        .sort(([a], [b]) => (a < b ? -1 : 1))
        .map(([key, inner]) => [key, key.endsWith('Cursor') ? typeof inner : settled(inner)]),
    );
  }
  if (typeof value === 'string') return value.replaceAll(run, 'RUN').replace(/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/g, 'UUID').replace(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, 'TIME');
  return value;
}

async function step(name, work) {
  const begun = Date.now();
  answers[name] = settled(await work());
  timings[name] = Date.now() - begun;
}

const entity = '/api/catalog/entities/by-name/component/default/stagedoor-probe';

await step('readiness', () =>
  until('readiness', () => call('GET', '/.backstage/health/v1/readiness'), ({ status }) => status === 200));
await step('entity', () =>
  until('entity', () => call('GET', entity), ({ status, json }) =>
    status === 200 && json.metadata.description.includes('zebrafish') && (json.relations ?? []).length === 2));
await step('refresh', () =>
  call('POST', '/api/catalog/refresh', { body: { entityRef: 'component:default/stagedoor-probe' } }));
await step('query', async () => {
  const path = '/api/catalog/entities/by-query?filter=kind=component&orderField=metadata.name,asc&limit=2';
  return call('GET', path);
});
await step('facets', () =>
  until('facets', () => call('GET', '/api/catalog/entity-facets?facet=kind'), ({ json }) =>
    (json.facets?.kind ?? []).length === 5));
await step('missing', () => call('GET', '/api/catalog/entities/by-name/component/default/nobody'));
await step('ancestry', () => call('GET', `${entity}/ancestry`));

let user;
await step('login', async () => {
  const { status, json } = await call('GET', '/api/auth/guest/refresh');
  user = json.backstageIdentity.token;
  return { status, identity: json.backstageIdentity.identity };
});

await step('notification', async () => {
  const title = `hello ${run}`;
  const sent = await call('POST', '/api/notifications/notifications', {
    body: { recipients: { type: 'broadcast' }, payload: { title } },
  });
  const { status, json } = await call('GET', '/api/notifications/notifications', { token: user });
  const mine = json.notifications.filter(notification => notification.payload.title === title);
  return { sent, status, mine };
});

await step('scaffolder', async () => {
  const { json, status } = await call('POST', '/api/scaffolder/v2/tasks', {
    token: user,
    body: { templateRef: 'template:default/stagedoor-template', values: { name: run } },
  });
  const path = `/api/scaffolder/v2/tasks/${json.id}`;
  const task = await until('scaffolder task', () => call('GET', path, { token: user }), answer =>
    ['completed', 'failed', 'cancelled'].includes(answer.json.status));
  const events = await call('GET', `${path}/events`, { token: user });
  return {
    status,
    task: { status: task.json.status, steps: task.json.spec.steps.map(({ id, action }) => ({ id, action })) },
    // Written at once over several connections: their order is nobody's promise.
    events: events.json.map(({ type, body }) => `${type} ${body.stepId ?? ''} ${body.status ?? ''}`).sort(),
  };
});

// The event bus: LISTEN on one connection, pg_notify on another. The held request ends when the notification
// arrives; without it, only after 55 s.
await step('events', async () => {
  const topic = `stagedoor.${run}`;
  const subscription = `/api/events/bus/v1/subscriptions/${run}`;
  const publish = () =>
    call('POST', '/api/events/bus/v1/events', { body: { event: { topic, payload: { answer: 42 } } } });
  const unheard = await publish();
  const subscribed = await call('PUT', subscription, { body: { topics: [topic] } });
  // The headers come when the listener is in place, the end of the body with the notification.
  const held = await fetch(`${base}${subscription}/events`, {
    headers: { authorization: `Bearer ${service}` },
    signal: AbortSignal.timeout(20_000),
  });
  const begun = Date.now();
  const published = await publish();
  await held.text();
  timings.notify = Date.now() - begun;
  if (timings.notify > 10_000) throw new Error(`the notification took ${timings.notify} ms`);
  const received = await call('GET', `${subscription}/events`);
  return { unheard: unheard.status, subscribed: subscribed.status, held: held.status, published, received };
});

await step('search', () =>
  until('search', () => call('GET', '/api/search/query?term=zebrafish'), ({ status, json }) =>
    status === 200 && json.results.length === 1));

console.log(JSON.stringify({ answers, timings }));
