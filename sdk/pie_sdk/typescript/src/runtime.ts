/** Where the program runs. */

export { instanceId, models, program, tenant, user, version } from "pie:inferlet/runtime@0.1.0";
