// Prints outcomes: node read-outcomes.js [SLOT_ID]; with a slot, until its outcome has come.

import { Kafka, logLevel } from "kafkajs";

const { KAFKA = "localhost:9092", RESULTS = "slot.results", GROUP = "playout" } = process.env;
const wanted = process.argv[2] === undefined ? undefined : BigInt(process.argv[2]);

function describe(slotId, outcome) {
  if (outcome.type === "slot-complete") {
    const { uri, duration_s } = outcome.artifact;
    return `slot ${slotId} complete: ${uri} (${duration_s} s)`;
  }
  return `slot ${slotId} missed: ${outcome.reason}, ${outcome.detail}`;
}

const kafka = new Kafka({ clientId: "playout", brokers: KAFKA.split(","), logLevel: logLevel.WARN });
// kafkajs reads committed records alone unless it is told `readUncommitted`.
const consumer = kafka.consumer({ groupId: GROUP });
await consumer.connect();
await consumer.subscribe({ topic: RESULTS, fromBeginning: true });

await new Promise((resolve, reject) => {
  consumer.on(consumer.events.CRASH, ({ payload }) => reject(payload.error));
  consumer.run({
    // The offset is committed once this returns, so none is lost when this process dies.
    eachMessage: async ({ message }) => {
      // The key holds the slot id; JSON.parse would round one above 2^53 - 1 in the value.
      const slotId = BigInt(message.key.toString());
      console.log(describe(slotId, JSON.parse(message.value.toString())));
      if (slotId === wanted) resolve();
    },
  });
});
await consumer.disconnect();
