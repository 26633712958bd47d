// Counts visits, on 127.0.0.1:3100.
const http = require('http');
let visits = 0;
let ticks = 0;
setInterval(() => ticks++, 10);
http.createServer((request, response) => {
  visits++;
  response.setHeader('Connection', 'close');
  response.end(`visits ${visits}\n`);
}).listen(3100, '127.0.0.1');
