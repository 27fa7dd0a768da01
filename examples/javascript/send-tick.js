// Sends a slot tick: node send-tick.js SLOT_ID [SCRIPT]

import { Kafka, Partitioners, logLevel } from "kafkajs";

const { KAFKA = "localhost:9092", TICKS = "slot.ticks" } = process.env;

// BigInt, since a slot id may be up to 2^63 - 1, and numbers are exact up to 2^53 - 1 only.
const slotId = BigInt(process.argv[2]);
const script = process.argv[3] ?? "Good evening. Here is the news.";
const now = Date.now();

const tick = {
  emitted_at: new Date(now).toISOString(),
  deadline: new Date(now + 45_000).toISOString(),
  recipe: {
    slot_params: { duration_sec: 6, fps: 12, resolution: "128x128" },
    audio_track: { script },
    visual_track: { prompt: "A news presenter in a blue coat" },
  },
};
// JSON.stringify takes no BigInt, so the number is put in front of the rest.
const value = `{"slot_id":${slotId},${JSON.stringify(tick).slice(1)}`;

const kafka = new Kafka({ clientId: "newsroom", brokers: KAFKA.split(","), logLevel: logLevel.WARN });
const producer = kafka.producer({
  idempotent: true, // a retry of the client's sends no second tick
  createPartitioner: Partitioners.DefaultPartitioner, // the same partitions as Java and Python
});
await producer.connect();
try {
  // Keyed by slot, so that all ticks of a slot share a partition.
  const [at] = await producer.send({
    topic: TICKS,
    acks: -1,
    messages: [{ key: slotId.toString(), value }],
  });
  console.log(`sent slot ${slotId} to ${at.topicName}/${at.partition}@${at.baseOffset}`);
} finally {
  await producer.disconnect();
}
