// An OpenID provider on loopback: node server.mjs CONFIG, a JSON file with {port, clients, authMethods, keys}.
// Whoever asks is signed in at once as the account that the cookie `as` names, without forms; `nobody` declines.
// What is tested here is what an application sees, not how a provider asks for passwords or consent.
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { Provider } from 'oidc-provider';

const config = JSON.parse(readFileSync(process.argv[2], 'utf8'));

const provider = new Provider(`http://127.0.0.1:${config.port}`, {
  clients: config.clients,
  clientAuthMethods: config.authMethods,
  enabledJWA: { idTokenSigningAlgValues: ['RS256', 'ES256'] },
  jwks: { keys: config.keys },
  cookies: { keys: ['only-for-tests'] },
  features: { devInteractions: { enabled: false } },
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
  async loadExistingGrant(ctx) {
    const { session, client } = ctx.oidc;
    const grant = new provider.Grant({ accountId: session.accountId, clientId: client.clientId });
    grant.addOIDCScope('openid');
    await grant.save();
    return grant;
  },
  pkce: { required: () => true },
});

async function interact(request, response) {
  const account = /\bas=(\w+)/.exec(request.headers.cookie)?.[1] ?? 'nobody';
  const result = account === 'nobody'
    ? { error: 'access_denied', error_description: 'they declined' }
    : { login: { accountId: account } };
  await provider.interactionFinished(request, response, result);
}

const handle = provider.callback();
createServer((request, response) => {
  if (request.url.startsWith('/interaction/')) {
    interact(request, response).catch((error) => {
      console.error(error);
      response.writeHead(500).end();
    });
  } else {
    handle(request, response);
  }
}).listen(config.port, '127.0.0.1');
