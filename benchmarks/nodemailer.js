// Sends finished messages through nodemailer's pool with one connection, and prints what it took, as lab/sample.py does.
const nodemailer = require("nodemailer");

async function main({ port, count, sender, to, mail }) {
  const pool = nodemailer.createTransport({
    host: "127.0.0.1", port, secure: false, ignoreTLS: true, pool: true, maxConnections: 1, maxMessages: Infinity,
  });
  const message = { envelope: { from: sender, to }, raw: mail };
  const used = process.cpuUsage();
  const start = process.hrtime.bigint();
  const sent = await Promise.all(Array.from({ length: count }, () => pool.sendMail(message)));
  const seconds = Number(process.hrtime.bigint() - start) / 1e9;
  const { user, system } = process.cpuUsage(used);
  pool.close();
  const accepted = sent.filter((info) => info.accepted.length === to.length).length;
  console.log(JSON.stringify({ sent: accepted, seconds, cpu: (user + system) / 1e6, memory: 0 }));
}

main(JSON.parse(process.argv[2]));
