require('http').get({ port: 3100, host: '127.0.0.1', agent: false }, (r) => r.pipe(process.stdout))
  .on('error', (e) => { console.error(e.message); process.exit(1); });
